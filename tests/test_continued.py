"""Going on from a trained retrieval model: what is kept of it, and what is not."""

import keras
import numpy as np
import pytest

from keras_aploss import APLoss, PCAWhitening, retrieval_model
from keras_aploss.models import small_resnet


def images(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 24, 3), "uint8")


def trained(pooling="gem", units=6, **options):
    """A model with weights that no new one has."""
    keras.utils.set_random_seed(1)
    model = retrieval_model(small_resnet((4, 8)), units, pooling=pooling, **options)
    for weight in model.weights:
        if weight.name in ("p", "bias", "beta"):
            weight.assign(weight + 0.5)
    return model


@pytest.mark.parametrize(
    ("pooling", "units"), [("gem", None), ("average", 6), ("max", None)]
)
def test_a_trained_model_goes_on_as_it_is(pooling, units, tmp_path):
    trained(pooling).save(tmp_path / "model.keras")
    old = keras.saving.load_model(tmp_path / "model.keras")
    expected = np.array(old(images()))
    new = retrieval_model(old, units, pooling=pooling)
    assert new.output_shape == (None, 6)
    np.testing.assert_allclose(new(images()), expected, atol=1e-6)
    # Each time anew, and not deeper from run to run.
    again = retrieval_model(new, pooling=pooling)
    assert [layer.name for layer in again.layers] == [la.name for la in old.layers]
    np.testing.assert_allclose(again(images()), expected, atol=1e-6)


def test_its_statistics_stay_and_all_else_is_trained(tmp_path):
    new = retrieval_model(trained(freeze_batch_norm=False))
    before = {w.path: np.array(w) for w in new.weights}
    new.compile(keras.optimizers.SGD(0.1), APLoss(), run_eagerly=True)
    new.fit(images(), np.array([0, 1, 0, 1]), verbose=0)
    moved = {w.path for w in new.weights if np.ptp(before[w.path] - np.array(w))}
    assert moved
    assert not any("moving" in path for path in moved)
    assert any("projection" in path for path in moved)
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images()), new(images()), atol=1e-6)


def test_other_units_take_a_new_projection_and_say_so(caplog):
    old = trained()
    new = retrieval_model(old, 5)
    assert new.output_shape == (None, 5)
    assert "to 6 dimensions is left out: a new one to units=5" in caplog.text
    for name in ("small_resnet", "pooling"):
        for ours, theirs in zip(
            new.get_layer(name).weights, old.get_layer(name).weights, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    caplog.clear()
    assert retrieval_model(trained(units=None), 5).output_shape == (None, 5)
    assert not caplog.text


def test_its_whitening_is_left_out_and_said_to_be(caplog):
    old = trained(whitening=PCAWhitening(3, name="mine", dtype="float32"))
    old.get_layer("mine").adapt(np.random.default_rng(0).normal(size=(20, 6)))
    unwhitened = keras.Model(old.input, old.get_layer("embedding").output)
    new = retrieval_model(old)
    assert "whitening of retrieval_model is left out" in caplog.text
    np.testing.assert_allclose(new(images()), unwhitened(images()), atol=1e-6)
    whitened = retrieval_model(old, whitening=True)
    # Not adapted yet: it changes nothing.
    np.testing.assert_allclose(whitened(images()), new(images()), atol=1e-6)


def test_another_pooling_or_size_is_refused():
    old = trained("average")
    with pytest.raises(ValueError, match=r"pooling='average'.*pooling='gem'"):
        retrieval_model(old)
    features = keras.Model(old.input, old.get_layer("pooling").input)
    assert retrieval_model(features, pooling="max").output_shape == (None, 8)
    x = keras.Input((16, 16, 3))
    fixed = keras.Model(x, keras.layers.Conv2D(4, 3, activation="relu")(x))
    fixed = retrieval_model(fixed)
    assert retrieval_model(fixed).input_shape == (None, 16, 16, 3)
    with pytest.raises(ValueError, match="image_size=24"):
        retrieval_model(fixed, image_size=24)


@pytest.mark.parametrize("last", ["pool", "classes"])
def test_a_model_of_vectors_is_told_which_layer_has_the_features(last):
    x = y = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(4, 3, name="conv")(y)
    y = keras.layers.ReLU(name="features")(y)
    y = keras.layers.GlobalAveragePooling2D(keepdims=True, name="map_of_one")(y)
    y = keras.layers.Reshape((4,), name="pool")(y)
    y = keras.layers.Dense(10, name="classes")(y)
    model = keras.Model(x, y)
    model = keras.Model(x, model.get_layer(last).output)
    with pytest.raises(ValueError, match=r"model\.get_layer\('features'\)\.output"):
        retrieval_model(model)
    advised = keras.Model(model.input, model.get_layer("features").output)
    assert retrieval_model(advised).output_shape == (None, 4)
