"""Our triplet losses against tensorflow-addons itself.

`tox -e addons` runs this in TensorFlow 2.15, where `keras_aploss` cannot be imported:
what it gives was written before, by `write_ours.py`.
"""

import importlib.metadata
import importlib.util
import os
import pathlib

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

OURS = np.load(pathlib.Path(os.environ["KERAS_APLOSS_OURS"]) / "losses.npz")
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "tfa_losses.npz")


def manhattan(x):
    return tf.reduce_sum(tf.abs(x[:, None] - x[None, :]), axis=-1)


def value_and_gradient(loss, labels, embeddings):
    embeddings = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = loss(labels, embeddings)
    return value.numpy(), tape.gradient(value, embeddings).numpy()


def per_point(gradient, embeddings):
    """Of equal embeddings one may be met in place of the other: sum their gradients."""
    points, place = np.unique(embeddings, axis=0, return_inverse=True)
    total = np.zeros(points.shape)
    np.add.at(total, place.reshape(-1), gradient)
    return total


def test_the_environment_is_the_old_one_and_has_nothing_of_ours():
    packages = "tensorflow", "keras", "tensorflow-addons"
    versions = [importlib.metadata.version(name).split(".")[:2] for name in packages]
    assert versions == [["2", "15"], ["2", "15"], ["0", "23"]]
    assert importlib.util.find_spec("keras_aploss") is None


@pytest.mark.parametrize("case", cases.cases(), ids=cases.case_id)
def test_ours_have_the_values_and_gradients_of_tensorflow_addons(case):
    batch, name, arguments = case
    labels, x = OURS[f"{batch}/labels"], OURS[f"{batch}/embeddings"]
    loss = cases.loss_of(tfa.losses, name, arguments, {"manhattan": manhattan})
    value, gradient = value_and_gradient(loss, labels, x)
    # Of 16-bit embeddings, tensorflow-addons gives a 16-bit loss.
    tolerance = 1e-5 if x.dtype == "float32" else 2e-3
    key = cases.case_id(case)
    assert value.shape == ()
    np.testing.assert_allclose(OURS[f"{key}/loss"], value, tolerance, tolerance)
    gradient, ours = (per_point(g, x) for g in (gradient, OURS[f"{key}/gradient"]))
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(ours, gradient, 0, atol=tolerance * largest)


LOSSES = {
    "semihard": lambda metric: tfa.losses.TripletSemiHardLoss(0.4, metric),
    "hard": lambda metric: tfa.losses.TripletHardLoss(0.4, False, metric),
    "hard_soft": lambda metric: tfa.losses.TripletHardLoss(0.4, True, metric),
}


@pytest.mark.parametrize("batch", ["balanced", "few_classes", "random"])
@pytest.mark.parametrize("metric", cases.NAMED_METRICS)
@pytest.mark.parametrize("kind", LOSSES)
def test_the_golden_numbers_are_those_of_tensorflow_addons(batch, kind, metric):
    value, gradient = value_and_gradient(
        LOSSES[kind](metric), GOLDEN[f"{batch}/labels"], GOLDEN[f"{batch}/embeddings"]
    )
    key = f"{batch}/{kind}/{metric}"
    np.testing.assert_allclose(GOLDEN[f"{key}/loss"], value, atol=1e-6)
    np.testing.assert_allclose(GOLDEN[f"{key}/grad"], gradient, atol=1e-6)


def test_a_model_trains_as_it_did():
    kernel, inputs, labels = cases.start_of_training()
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(4, use_bias=False), tf.keras.layers.UnitNormalization()]
    )
    model.build(inputs.shape)
    model.set_weights([kernel])
    loss = tfa.losses.TripletSemiHardLoss(0.5)
    model.compile(tf.keras.optimizers.SGD(0.1), loss)
    history = model.fit(
        inputs, labels, batch_size=20, epochs=4, shuffle=False, verbose=0
    )
    np.testing.assert_allclose(OURS["training"], history.history["loss"], rtol=1e-5)
    assert np.ptp(OURS["training"]) > 1e-3


def test_what_is_said_to_differ_differs():
    """Ours refuse such batches, have distractors, float64, reductions and weights."""
    semi_hard, hard = tfa.losses.TripletSemiHardLoss(), tfa.losses.TripletHardLoss()
    x = np.eye(4, dtype="float32")
    one_class, all_alone, labels = np.zeros(4, int), np.arange(4), np.arange(4) // 2
    # Its negative is the query itself, or the farthest image.
    np.testing.assert_allclose(semi_hard(one_class, x), 1 + np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(hard(one_class, x), 1, rtol=1e-6)
    assert np.isnan(semi_hard(all_alone, x))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    expected = float(semi_hard(labels, x))
    assert float(semi_hard(labels - 1, x)) == expected
    assert float(tfa.losses.TripletSemiHardLoss(reduction="sum")(labels, x)) == expected
    with pytest.raises(TypeError, match="float64"):
        semi_hard(labels, x.astype("float64"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        semi_hard(labels, x, sample_weight=np.ones(4))
