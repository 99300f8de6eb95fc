"""The retrieval model: any backbone, any image size, unit length."""

import keras
import numpy as np
import pytest

from keras_aploss import APLoss, GeneralizedMeanPooling2D, PCAWhitening, retrieval_model
from keras_aploss.models import small_resnet


def images(count=2, height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype="uint8")


@pytest.mark.parametrize(
    ("pooling", "whitening"), [("gem", True), ("max", False), ("average", False)]
)
def test_embeddings_have_unit_length_for_any_size_and_type_of_image(pooling, whitening):
    model = retrieval_model(
        small_resnet((8, 16)), 12, pooling=pooling, whitening=whitening
    )
    for height, width in [(33, 47), (16, 80), (8, 8)]:
        x = images(height=height, width=width)
        embeddings = model.predict(x, verbose=0)
        assert embeddings.shape == (2, 12)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(
            model.predict(x.astype("float32"), verbose=0), embeddings, atol=1e-6
        )


def test_without_units_the_embedding_has_the_channels_of_the_backbone():
    assert retrieval_model(small_resnet((8, 16))).output.shape == (None, 16)


def test_gem_pools_both_signs_unless_the_backbone_ends_in_a_relu(caplog):
    x = keras.Input((None, None, 3))
    linear = keras.Model(x, keras.layers.Conv2D(4, 3)(x))
    wrapped = keras.Sequential([keras.Input((None, None, 3)), small_resnet((8,))])
    leaky = keras.Model(x, keras.layers.ReLU(negative_slope=0.1)(linear(x)))
    swish = keras.Model(x, keras.layers.Activation("swish")(linear(x)))
    caplog.set_level("INFO")
    signed = {
        backbone.name: retrieval_model(backbone).get_layer("pooling").signed
        for backbone in (small_resnet((8,)), wrapped, linear, leaky, swish)
    }
    assert list(signed.values()) == [False, False, True, True, True]
    assert caplog.text.count("GeM pools positive and negative values") == 3
    # An inner layer may end otherwise than the model.
    cut = small_resnet((8,))
    cut = keras.Model(cut.input, cut.layers[-2].output)  # the sum before the ReLU
    assert retrieval_model(cut).get_layer("pooling").signed


def batch_norms(model):
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += batch_norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            found.append(layer)
    return found


def test_batch_norm_is_frozen_by_default_only_for_pretrained_backbones(tmp_path):
    weights = tmp_path / "backbone.weights.h5"
    small_resnet().save_weights(weights)
    policies = {
        "random": (retrieval_model("small_resnet"), True),
        "file": (retrieval_model("small_resnet", weights=str(weights)), False),
        "model of the user": (retrieval_model(small_resnet((8,))), False),
        "chosen": (
            retrieval_model(small_resnet((8,)), freeze_batch_norm=False),
            True,
        ),
        "nested": (retrieval_model(keras.Sequential([small_resnet((8,))])), False),
    }
    for name, (model, trained) in policies.items():
        layers = batch_norms(model)
        assert layers, name
        assert {layer.trainable for layer in layers} == {trained}, name


@keras.saving.register_keras_serializable(package="tests")
class Rebuilt(keras.Model):
    """A backbone that makes its layers anew from its configuration, as keras-hub's."""

    def __init__(self, filters, **kwargs):
        x = keras.Input((None, None, 3))
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(filters, 3)(x))
        super().__init__(x, keras.layers.BatchNormalization()(y), **kwargs)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


def rebuilt():
    return Rebuilt(4)


def resnet_of_keras_hub():
    hub = pytest.importorskip("keras_hub")
    return hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], block_type="basic_block",
        stackwise_num_filters=[64], stackwise_num_blocks=[1], stackwise_num_strides=[1],
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [rebuilt, pytest.param(resnet_of_keras_hub, marks=pytest.mark.slow)]
)
def test_what_is_frozen_stays_so_in_a_file_and_the_optimizer_goes_on(tmp_path, make):
    model = retrieval_model(make(), 4)
    model.compile(keras.optimizers.Adam(), "mse")
    x = images(4).astype("float32")
    model.fit(x, np.ones((4, 4)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not any(layer.trainable for layer in batch_norms(loaded))
    names = [[w.path for w in m.trainable_weights] for m in (model, loaded)]
    assert names[0] == names[1]
    for ours, theirs in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(loaded.predict(x), model.predict(x), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """Batch normalization inside of a layer, where no file says that it is frozen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.norm(self.dense(x))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization()

    def call(self, x):
        return self.norm(x)


def statistics(model):
    weights = [w for w in model.non_trainable_weights if "moving" in w.name]
    return {w.path: np.array(w) for w in weights}


@pytest.mark.parametrize("part", [Block, Subclassed, rebuilt])
def test_statistics_inside_of_a_layer_stay_frozen_in_a_file(tmp_path, part):
    backbone = keras.Sequential([keras.Input((None, None, 3)), part()])
    retrieval_model(backbone, 4).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    before, weights = statistics(model), [np.array(w) for w in model.trainable_weights]
    assert len(before) >= 2
    model.compile("sgd", APLoss(), run_eagerly=True)
    model.fit(images(8, 8, 8), np.arange(8) // 2, verbose=0)
    for path, value in statistics(model).items():
        np.testing.assert_array_equal(value, before[path])
    moved = [w for w, old in zip(model.trainable_weights, weights, strict=True)
             if not np.array_equal(w, old)]  # fmt: skip
    assert moved  # the rest is trained


def test_frozen_statistics_do_not_move_in_fit():
    model = retrieval_model(small_resnet((8,)), 4)
    model.compile("sgd", APLoss())
    before = [np.array(layer.moving_mean) for layer in batch_norms(model)]
    model.fit(images(8), np.arange(8) // 2, batch_size=8, verbose=0)
    for layer, mean in zip(batch_norms(model), before, strict=True):
        np.testing.assert_array_equal(layer.moving_mean, mean)


def test_weights_of_a_file_are_loaded(tmp_path):
    backbone = small_resnet()
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    model = retrieval_model(
        "small_resnet", weights=str(tmp_path / "backbone.weights.h5")
    )
    loaded = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    np.testing.assert_array_equal(loaded(images()), backbone(images()))


@pytest.mark.slow
def test_training_raises_average_precision_and_the_file_reloads(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 4
    colours = rng.integers(0, 256, (4, 1, 1, 3))
    x = np.clip(colours[labels] + rng.normal(0, 60, (32, 16, 16, 3)), 0, 255)
    model = retrieval_model(
        small_resnet((8, 16)), 8, whitening=PCAWhitening(6, 0.25, name="whitening"),
        freeze_batch_norm=False,
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(3e-3), APLoss())
    history = model.fit(x, labels, batch_size=32, epochs=15, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    pooling = next(
        layer for layer in model.layers if isinstance(layer, GeneralizedMeanPooling2D)
    )
    assert float(pooling.p[0]) != 3.0
    model.get_layer("whitening").adapt(rng.normal(size=(50, 8)))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(x), model(x), atol=1e-6)


def test_embeddings_stay_float32_of_unit_length_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = retrieval_model(small_resnet((8, 16)), 12)
    finally:
        keras.config.set_dtype_policy("float32")
    embeddings = model(images())
    assert keras.backend.standardize_dtype(embeddings.dtype) == "float32"
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_whitening_is_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = retrieval_model(small_resnet((8, 16)), 12, whitening=True)
    finally:
        keras.config.set_dtype_policy("float32")
    layer = model.get_layer("whitening")
    embedding = keras.Model(model.input, layer.input)
    x = images(32, seed=2)
    plain = np.array(embedding(x), "float64")
    layer.adapt(plain)
    expected = (plain - np.array(layer.mean)) @ np.array(layer.kernel, "float64")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    cosine = (np.array(model(x)) * expected).sum(axis=1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": None}, "backbone"),
        ({"backbone": "__name__"}, "keras.applications"),
        ({"backbone": "__class__"}, "keras.applications"),
        ({"units": 2.5}, "units"),
        ({"whitening": "yes"}, "whitening"),
        ({"backbone": keras.Sequential(), "weights": "a.h5"}, "weights"),
        ({"backbone": "ResNet5000"}, "keras.applications"),
        ({"backbone": "resnet"}, "keras.applications"),
        ({"pooling": "median"}, "pooling"),
        ({"units": 0}, "units"),
        ({"image_size": 224.0}, "image_size"),
        (
            {"backbone": keras.Sequential([keras.layers.GlobalMaxPooling2D()])},
            "feature map",
        ),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval_model(**arguments)


def test_images_have_their_channels_last_whatever_the_settings_of_keras_say():
    x = images(height=40, width=56)
    keras.utils.set_random_seed(0)
    expected = retrieval_model(small_resnet((4, 8)), 4).predict(x, verbose=0)
    vgg16 = retrieval_model("VGG16", pooling="average")
    keras.config.set_image_data_format("channels_first")
    try:
        keras.utils.set_random_seed(0)
        model = retrieval_model(small_resnet((4, 8)), 4)
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
        named = retrieval_model("VGG16", pooling="average")
        named.set_weights(vgg16.get_weights())
        np.testing.assert_array_equal(
            named.predict(x, verbose=0), vgg16.predict(x, verbose=0)
        )
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")
