"""Backbones of keras-hub: each family, its tokens, its sizes; presets in folders."""

import hub_backbones
import keras
import numpy as np
import pytest
from encoders import assert_same_step, at_once, step
from gradients import BACKEND, on_tensorflow
from hub_backbones import CNNS, SIZE, TRANSFORMERS, outputs
from keras import ops

from keras_aploss import APLoss, ap_loss, retrieval_model
from keras_aploss.models.hub import image_features
from keras_aploss.runs.checkpoint import load_model
from keras_aploss.training import embed_in_chunks

keras_hub = pytest.importorskip("keras_hub")
FAMILIES = [*TRANSFORMERS, *CNNS]
# One with its class as a layer, and one in `InferenceMode`.
IN_THE_GATE = ("ViT", "EfficientNet")
EACH = [
    pytest.param(family, marks=[pytest.mark.slow] * (family not in IN_THE_GATE))
    for family in FAMILIES
]
FEW = ("Swin", "MiT", "HGNetV2", "MobileNetV3")  # seconds each
SLOW = {f: pytest.param(f, marks=pytest.mark.slow) for f in FEW}

LABELS = np.array([0, 0, 1, 1])


def images(count=4, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3)).astype("float32")


def backbone_of(family, **options):
    """A backbone whose weights are all random: no zeros, no ones."""
    backbone = hub_backbones.make(family, keras_hub.models, **options)
    rng = np.random.default_rng(1)
    for weight in backbone.weights:
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif "float" in str(weight.dtype):
            weight.assign(0.3 * rng.normal(size=weight.shape))
        else:  # the numbers of the positions, which random models of CLIP lack
            weight.assign(np.arange(weight.shape[-1])[None])
    if hasattr(backbone, "embeddings") and "DINOV2" in type(backbone).__name__:
        embeddings = backbone.embeddings
        shape = embeddings.interpolated_position_embeddings.shape
        positions = rng.normal(size=shape)
        embeddings.interpolated_position_embeddings.assign(positions)
    return backbone


def features_of(backbone, x):
    """What a backbone makes of images, by its own parts."""
    encoder = getattr(backbone, "vision_encoder", backbone)
    if hasattr(encoder, "post_layer_norm"):  # SigLIP
        encoder = keras.Model(encoder.inputs, encoder.head.input)
    (name,) = [one.name for one in encoder.inputs]
    is_dict = isinstance(encoder.input, dict)
    features = outputs(encoder, {name: x / 255} if is_dict else x / 255)
    return features["stage2"] if isinstance(features, dict) else features  # HGNetV2


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def gem(x, signed, p=3):
    """The power mean of the positive values, less that of the negative ones."""
    positive, negative = (
        (np.maximum(sign * x, 1e-6) ** p).mean(axis=1) ** (1 / p) for sign in (1, -1)
    )
    return positive - negative if signed else positive


@pytest.mark.parametrize("family", [SLOW.get(f, f) for f in FAMILIES])
def test_the_embedding_is_that_of_the_patches_alone(family):
    backbone, x = backbone_of(family), images()
    features = features_of(backbone, x)
    model = retrieval_model(backbone, pooling="average")
    if family in TRANSFORMERS:
        patches = features[:, TRANSFORMERS[family] :]
        assert model.input_shape == (None, SIZE, SIZE, 3)
        assert np.sqrt(patches.shape[1]) in (4, 8)
    else:
        patches = features.reshape(len(x), -1, features.shape[-1])
    expected = unit(patches.mean(axis=1))
    np.testing.assert_allclose(outputs(model, x / 255), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["ViT", "DINOv2 with registers"])
def test_poolings_of_tokens_are_those_of_a_hand_computation(family):
    backbone, x = backbone_of(family), images()
    tokens = features_of(backbone, x)
    patches = tokens[:, TRANSFORMERS[family] :]
    for pooling in ("cls", "gem", "max", "cls+gem"):
        model = retrieval_model(backbone, pooling=pooling)
        signed = getattr(model.get_layer("pooling"), "signed", False)
        expected = {
            "cls": tokens[:, 0],
            "gem": gem(patches, signed),
            "max": patches.max(axis=1),
            "cls+gem": np.hstack([unit(tokens[:, 0]), unit(gem(patches, signed))]),
        }[pooling]
        np.testing.assert_allclose(
            outputs(model, x / 255), unit(expected), atol=1e-5, err_msg=pooling
        )


@pytest.mark.parametrize("family", EACH)
def test_each_family_is_trained_saved_and_loaded(family, tmp_path):
    keras.utils.set_random_seed(0)
    on_tf = BACKEND == "tensorflow"
    backbone = hub_backbones.make(family, keras_hub.models)
    model, x = retrieval_model(backbone, 4, pooling="average"), images() / 255
    model.compile(keras.optimizers.SGD(0.1), APLoss(), run_eagerly=on_tf)
    before = [np.array(w) for w in model.trainable_weights]
    frozen = [np.array(w) for w in model.non_trainable_weights if "moving" in w.name]
    model.fit(x, LABELS, verbose=0)
    # Not those of masked training, and of dead units.
    moved = [
        not np.array_equal(weight, old)
        for weight, old in zip(model.trainable_weights, before, strict=True)
    ]
    assert sum(moved) > 0.5 * len(moved)
    moving = [np.array(w) for w in model.non_trainable_weights if "moving" in w.name]
    for weight, old in zip(moving, frozen, strict=True):
        np.testing.assert_array_equal(weight, old)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras", compile=True)
    np.testing.assert_allclose(outputs(loaded, x), outputs(model, x), atol=1e-6)
    assert loaded.input_shape == model.input_shape
    model.fit(x, LABELS, verbose=0)  # goes on after it was saved
    assert [w.shape for w in loaded.trainable_weights] == [w.shape for w in before]


@pytest.mark.parametrize("family", ["ViT", "EfficientNet"])
def test_a_batch_in_chunks_has_the_gradient_of_the_whole(family):
    keras.utils.set_random_seed(0)
    backbone = hub_backbones.make(family, keras_hub.models)
    encoder, x = retrieval_model(backbone, 4, pooling="average"), images() / 255

    def loss(embeddings, added):
        return ops.mean(ap_loss(embeddings, LABELS)) + ops.cast(added, "float32")

    def chunked(encoder, x):
        return embed_in_chunks(encoder, x, 2)

    expected = step(at_once, encoder, x, loss)
    assert max(np.abs(g).max() for g in expected["gradients"]) > 1e-3
    assert_same_step(step(chunked, encoder, x, loss), expected, rtol=1e-4)


@pytest.mark.slow
@on_tensorflow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_exported(family, tmp_path):
    import tensorflow as tf

    from keras_aploss import export_saved_model

    model = retrieval_model(backbone_of(family), 4)
    folder = export_saved_model(model, tmp_path / "model", image_size=SIZE)
    x = images()
    served = tf.saved_model.load(str(folder)).signatures["images"]
    np.testing.assert_allclose(
        served(images=tf.constant(x))["embedding"],
        model.predict(x, verbose=0),
        atol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in CNNS if f != "MiT"])
def test_convolutions_take_images_of_any_size(family):
    model = retrieval_model(backbone_of(family), 4, image_size=SIZE)
    assert model.input_shape == (None, None, None, 3)
    for height, width in [(40, 64), (72, 33)]:
        x = np.random.default_rng(0).uniform(0, 1, (2, height, width, 3))
        embeddings = outputs(model, x)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def positions_of(encoder):
    """The positions, (T, C), and their weight."""
    (weight,) = [w for w in encoder.weights if "position_embedding" in w.path]
    return np.array(weight).reshape(-1, weight.shape[-1]), weight


@pytest.mark.parametrize(
    ("family", "prefix", "size"),
    [
        ("ViT", 1, 48), ("DeiT", 2, 16), ("SigLIP", 0, 16),
        pytest.param("CLIP", 1, 48, marks=pytest.mark.slow),
        pytest.param("MetaCLIP 2", 1, 16, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_positions_are_interpolated_for_another_size(family, prefix, size):
    backbone = backbone_of(family)
    encoder = getattr(backbone, "vision_encoder", backbone)
    positions, weight = positions_of(encoder)
    side = round((len(positions) - prefix) ** 0.5)
    # A channel that grows to the right, one that grows downwards, the rest constant.
    positions[prefix:] = 0.5
    grid = positions[prefix:].reshape(side, side, -1)
    grid[..., 0], grid[..., 1] = np.arange(side), np.arange(side)[:, None]
    weight.assign(positions.reshape(weight.shape))
    resized, num_prefix_tokens = image_features(encoder, size)
    assert num_prefix_tokens == prefix
    assert resized.input_shape == (None, size, size, 3)
    found = positions_of(resized)[0]
    np.testing.assert_allclose(found[:prefix], positions[:prefix], atol=1e-6)
    found = found[prefix:].reshape(size // 8, size // 8, -1)
    np.testing.assert_allclose(found[..., 2:], 0.5, atol=1e-6)
    ramp = found[0, :, 0]
    assert (np.diff(ramp) > 0).all()
    assert ramp.mean() == pytest.approx((side - 1) / 2, abs=1e-5)
    np.testing.assert_allclose(found[..., 0], np.tile(ramp, (size // 8, 1)), atol=1e-5)
    np.testing.assert_allclose(found[..., 1], found[..., 0].T, atol=1e-5)


def test_positions_of_dinov2_are_those_of_keras_hub(tmp_path):
    backbone_of("DINOv2 with registers").save_to_preset(tmp_path)
    load = keras_hub.models.Backbone.from_preset
    backbone = load(str(tmp_path))
    for size in (SIZE, 48):
        expected = load(str(tmp_path), image_shape=(size, size, 3))
        encoder, num_prefix_tokens = image_features(backbone, size)
        assert num_prefix_tokens == 3
        x = images(size=size) / 255
        np.testing.assert_allclose(
            outputs(encoder, x), outputs(expected, {"images": x}), atol=1e-6
        )


@pytest.mark.parametrize("sign", [pytest.param(1, marks=pytest.mark.slow), -1])
def test_positions_that_dinov2_has_learnt_are_in_the_file(tmp_path, sign):
    """keras-hub forgets them if the sum of what they have learnt is negative."""
    model, x = retrieval_model(backbone_of("DINOv2"), pooling="cls"), images() / 255
    (weight,) = [w for w in model.weights if "interpolated" in w.name]
    change = np.random.default_rng(5).uniform(0, 1, size=weight.shape)
    weight.assign(weight + sign * change)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    expected = outputs(model, x)  # which can be run on
    np.testing.assert_allclose(outputs(loaded, x), expected, atol=1e-6)


@pytest.mark.parametrize("family", ["DINOv3", SLOW["Swin"]])
def test_networks_without_positions_take_another_size(family):
    backbone, x = backbone_of(family), images(size=64)
    model = retrieval_model(backbone, pooling="average", image_size=64)
    assert model.input_shape == (None, 64, 64, 3)
    other = backbone_of(family, image_shape=(64, 64, 3))  # the same random weights
    expected = outputs(retrieval_model(other, pooling="average"), x)
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-6)
