"""`channels_first` in `keras.json`, and other types of floating-point numbers."""

import hub_backbones
import keras
import numpy as np
import pytest

from keras_aploss import APLoss, retrieval_model
from keras_aploss.models import small_resnet


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.fixture(params=["float16", "bfloat16", "float64"])
def floatx(request):
    kept = keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(kept)


def images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), "uint8")


def convolution(shape, *around):
    x = y = keras.Input(shape)
    for layer in (*around[:1], keras.layers.Conv2D(4, 3, name="conv"), *around[1:]):
        y = layer(y)
    return keras.Model(x, y, name="mine")


@pytest.mark.parametrize("shape", [(3, None, None), (16, 16, 3), (3, 16, 16)])
def test_a_backbone_for_channels_first_is_refused(channels_first, shape):
    # With 16 x 16 x 3 it would take the rows for channels, and train.
    with pytest.raises(ValueError, match=r"'mine', for images .B, 3, H, W.*'conv'"):
        retrieval_model(convolution(shape))
    with pytest.raises(ValueError, match="set_image_data_format"):
        retrieval_model(keras.Sequential([keras.Input(shape), convolution(shape)]))


def test_a_backbone_that_permutes_the_axes_itself_is_taken(channels_first):
    turn, back = (keras.layers.Permute(axes) for axes in ((3, 1, 2), (2, 3, 1)))
    model = retrieval_model(convolution((16, 16, 3), turn, back), pooling="average")
    assert model.output_shape == (None, 4)  # TensorFlow runs it on GPUs only


def test_a_step_of_training_under_channels_first(channels_first):
    model = retrieval_model("small_resnet", 4, whitening=True)
    model.compile("sgd", APLoss(), run_eagerly=True)
    loss = model.train_on_batch(images(), np.array([0, 1, 0, 1]))
    assert np.isfinite(loss)
    assert retrieval_model(model)(images()).shape == (4, 4)


def test_embeddings_are_float32_and_a_step_is_made_whatever_floatx_is(floatx):
    keras.utils.set_random_seed(0)
    model = retrieval_model(small_resnet((4, 8)), 4, whitening=True)
    embeddings = model(images())
    assert keras.backend.standardize_dtype(embeddings.dtype) == "float32"
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert model.get_layer("projection").kernel.dtype == floatx
    model.compile(keras.optimizers.SGD(0.1), APLoss(), run_eagerly=True)
    loss = model.train_on_batch(images(), np.array([0, 1, 0, 1]))
    loss = float(np.array(loss, "float32"))
    expected = np.array(APLoss(dtype="float32")([0, 1, 0, 1], embeddings))
    assert loss == pytest.approx(float(expected), abs=5e-3)
    assert all(np.isfinite(np.array(w, "float32")).all() for w in model.weights)


def test_backbones_of_keras_hub_for_channels_first_are_refused(channels_first):
    hub = pytest.importorskip("keras_hub").models
    chw = hub_backbones.make("ViT", hub, image_shape=(3, 32, 32))
    with pytest.raises(ValueError, match=r"patching_and_embedding.*channels_last"):
        retrieval_model(chw)
    hwc = hub_backbones.make("ViT", hub, data_format="channels_last")
    assert retrieval_model(hwc, pooling="cls").input_shape == (None, 32, 32, 3)


def test_tokens_give_embeddings_of_float32_whatever_floatx_is(floatx):
    hub = pytest.importorskip("keras_hub").models
    model = retrieval_model(hub_backbones.make("ViT", hub), 4, pooling="cls+gem")
    embeddings = model(np.zeros((2, 32, 32, 3), "uint8"))
    assert keras.backend.standardize_dtype(embeddings.dtype) == "float32"
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
