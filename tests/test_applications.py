"""Each class of `keras.applications` as a backbone, with random weights."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_bytes import encode, photo
from keras.applications import imagenet_utils

from keras_aploss import APLoss, MultistageTrainer, export_saved_model, retrieval_model
from keras_aploss.embeddings import embed_at_scales
from keras_aploss.models.applications import application, divide_by_deviation

# By the papers: BGR minus means, [-1, 1], or standardized; None: inside of the network.
PIXELS = {
    **dict.fromkeys(["ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"], "caffe"),
    **dict.fromkeys(
        ["InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "NASNetLarge",
         "NASNetMobile", "ResNet50V2", "ResNet101V2", "ResNet152V2", "Xception"], "tf",
    ),
    **dict.fromkeys(["DenseNet121", "DenseNet169", "DenseNet201"], "torch"),
    **dict.fromkeys(f"ConvNeXt{size}" for size in
                    ("Tiny", "Small", "Base", "Large", "XLarge")),
    **dict.fromkeys(f"EfficientNetB{i}" for i in range(8)),
    **dict.fromkeys(f"EfficientNetV2{size}" for size in
                    ("B0", "B1", "B2", "B3", "S", "M", "L")),
    **{"MobileNetV3Large": None, "MobileNetV3Small": None},
}  # fmt: skip
# Of each kind of pixels one in the gate; networks of many layers take seconds to build.
FAST = ("MobileNet",)
SLOW = pytest.mark.slow
CLASSES = [pytest.param(n, marks=[SLOW] * (n not in FAST)) for n in PIXELS]
# The sizes that are tried: two of any, or the one for which a class is built.
SIZES = {"NASNetMobile": [(64, 64)], "NASNetLarge": [(96, 96)]}


def test_the_table_has_all_classes():
    classes = vars(keras.applications).items()
    assert sorted(PIXELS) == sorted(n for n, v in classes if inspect.isfunction(v))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def built(name):
    """A model of a class, its backbone and images of the sizes that are tried."""
    x = [noise(2, *size, 3) for size in SIZES.get(name, [(96, 96), (80, 112)])]
    keras.utils.set_random_seed(0)
    model = retrieval_model(
        name, 4, image_size=x[0].shape[1], pooling="average", freeze_batch_norm=True
    )
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    learn_statistics(model, backbone, x[0])
    return model, backbone, x


@pytest.mark.parametrize("name", CLASSES)
def test_pixels_are_scaled_as_a_class_was_trained_with(name):
    model, backbone, x = built(name)
    check_scaling_inside(name, backbone)
    dense = model.get_layer("projection")
    for images in x:
        scaled = images.astype("float32")
        if PIXELS[name]:
            scaled = imagenet_utils.preprocess_input(scaled, mode=PIXELS[name])
        pooled = np.array(backbone(scaled)).mean(axis=(1, 2))
        expected = pooled @ np.array(dense.kernel) + np.array(dense.bias)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(model(images), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIXELS)
def test_a_class_is_saved_exported_scaled_and_trained(name, tmp_path):
    model, _, x = built(name)
    side = x[0].shape[1]
    embeddings = [np.array(model(images)) for images in x]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x[-1]), embeddings[-1], atol=1e-5)

    version = export_saved_model(model, tmp_path / "served", image_size=side)
    served = tf.saved_model.load(str(version)).signatures
    image = photo(side, side, 0)
    found = served["serving_default"](image_bytes=tf.constant([encode(image, "PNG")]))
    expected = np.array(model(np.asarray(image)[None]))
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-4)

    scales = (1.0,) if name in SIZES else (1.0, 1.5)
    found = embed_at_scales(model, x[0], scales)
    np.testing.assert_allclose(found[0], embeddings[0], atol=1e-4)
    if name in SIZES:
        with pytest.raises(ValueError, match="any size"):
            embed_at_scales(model, x[0], (1.0, 1.5))

    trainer = MultistageTrainer(model, 2)
    trainer.compile("sgd", APLoss(), run_eagerly=True)
    before = np.array(model.get_layer("projection").kernel)
    images = np.concatenate([x[0], 255 - x[0]])
    assert np.isfinite(trainer.train_on_batch(images, np.array([0, 1, 0, 1])))
    assert np.ptp(before - np.array(model.get_layer("projection").kernel)) > 0


def learn_statistics(model, backbone, images):
    """Without those of its batch normalization a random network vanishes to zero."""
    norms = [layer for layer in backbone.layers if hasattr(layer, "momentum")]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    model(images, training=True)
    for layer in norms:
        layer.trainable, layer.momentum = False, 0.99


def check_scaling_inside(name, backbone):
    scaling = [
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)
    ]
    assert bool(scaling) == (PIXELS[name] is None)
    if scaling:  # at the beginning, and to the order of 1
        ends = keras.Model(backbone.input, scaling[-1].output)
        low, high = (float(np.mean(ends(np.full((1, 96, 96, 3), v)))) for v in (0, 255))
        assert -3 < low <= 0 < 0.9 < high < 3


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("VGG16", 31, "at least 32 x 32 pixels for VGG16.*image_size=31"),
        pytest.param("InceptionV3", 64, "at least 75 x 75", marks=pytest.mark.slow),
        ("NASNetMobile", 31, "at least 32x32"),
    ],
)
def test_images_that_are_too_small_are_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        retrieval_model(name, image_size=size)


@pytest.mark.slow
def test_nasnet_is_built_for_the_images_of_its_training_or_others():
    for size, side in ((None, 224), (64, 64)):
        model = retrieval_model("NASNetMobile", image_size=size)
        assert model.input_shape == (None, side, side, 3)


@pytest.mark.parametrize("name", ["MobileNet", pytest.param("NASNetMobile",
                                  marks=pytest.mark.slow)])  # fmt: skip
def test_a_download_that_fails_tells_how_to_bring_the_file(name, monkeypatch, tmp_path):
    # Nothing listens there.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: str(tmp_path))
    with pytest.raises(ValueError, match="weights of " + name) as caught:
        retrieval_model(name, weights="imagenet")
    message = str(caught.value)
    assert "fetch https://storage.googleapis.com/" in message
    assert message.count(".h5") == 2  # the address, as it was tried, and as advice
    assert "`--weights FILE`" in message


def test_the_file_of_efficientnet_holds_deviations_for_variances():
    deviations = np.array([0.229, 0.224, 0.225])
    mean = np.array([0.485, 0.456, 0.406])
    layer = keras.layers.Normalization()
    model = keras.Sequential([keras.Input((4, 4, 3)), layer], name="efficientnetb0")
    layer.set_weights([mean, deviations, np.array(0)])
    divide_by_deviation(model)
    x = np.random.default_rng(0).uniform(size=(1, 4, 4, 3))
    np.testing.assert_allclose(model(x), (x - mean) / deviations, rtol=1e-5)
    # Of a network that was trained from random weights it is a variance.
    layer.set_weights([mean, 2 * deviations, np.array(0)])
    divide_by_deviation(model)
    np.testing.assert_allclose(layer.get_weights()[1], 2 * deviations, rtol=1e-6)


@pytest.mark.slow
def test_a_file_of_efficientnet_gives_the_features_of_the_download(
    tmp_path, monkeypatch
):
    """`keras.applications` scales pixels otherwise if it downloads the file itself."""
    keras.utils.set_random_seed(0)
    source, _ = application("EfficientNetB0", None, None)
    norm = next(n for n in source.layers if isinstance(n, keras.layers.Normalization))
    of_file = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0
    norm.set_weights([np.array(values) for values in of_file])
    path = tmp_path / "b0.weights.h5"
    source.save_weights(path)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *args: None)
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *a, **k: ""
    )
    downloaded = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(None, None, 3)
    )
    monkeypatch.undo()
    downloaded.set_weights(source.get_weights())
    ours, _ = application("EfficientNetB0", str(path), None)
    x = noise(1, 64, 64, 3)
    np.testing.assert_allclose(ours(x), downloaded(x), atol=1e-4)
