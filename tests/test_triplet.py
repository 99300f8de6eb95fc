"""The triplet losses against those of tensorflow-addons, plain loops and properties."""

import functools
import pathlib

import keras
import numpy as np
import pytest
from gradients import (
    BACKEND,
    MANY,
    MODES,
    READS_VALUES,
    TOLERANCE,
    WIDEST,
    each_mode_slowly,
    on_tensorflow,
    run,
    slow_on_jax,
    unit,
    value_and_gradients,
)
from hypothesis import given, settings, strategies as st

from keras_aploss import TripletHardLoss, TripletSemiHardLoss
from keras_aploss.losses import triplet_hard_loss, triplet_semihard_loss

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "tfa_losses.npz")
METRICS = ("L2", "squared-L2", "angular")
LOSSES = {
    "semihard": TripletSemiHardLoss,
    "hard": TripletHardLoss,
    "hard_soft": functools.partial(TripletHardLoss, soft=True),
}


@keras.saving.register_keras_serializable(package="test_triplet")
def manhattan(x):
    """A distance of one's own."""
    return keras.ops.sum(keras.ops.abs(x[:, None] - x[None, :]), axis=-1)


def plain_distance(x, y, metric):
    if metric == "angular":
        lengths = np.linalg.norm(x) * np.linalg.norm(y)
        return 1 - x @ y / lengths if lengths else 1.0
    squared = np.sum((x - y) ** 2)
    return squared if metric == "squared-L2" else np.sqrt(squared)


def plain_values(kind, x, labels, margin, metric):
    """The loss of each query by its definition, in loops; and the number of terms."""
    values, count = np.zeros(len(x)), 0
    for q in range(len(x)):
        d = np.array([plain_distance(x[q], other, metric) for other in x])
        negatives = [d[n] for n in range(len(x)) if labels[n] != labels[q]]
        positives = [p for p in range(len(x)) if labels[p] == labels[q] and p != q]
        if labels[q] < 0 or not negatives:
            continue
        if kind == "semihard":
            count += len(positives)
            for p in positives:
                farther = [distance for distance in negatives if distance > d[p]]
                d_qn = min(farther) if farther else max(negatives)
                values[q] += max(margin + d[p] - d_qn, 0)
        else:
            count += 1
            gap = max((d[p] for p in positives), default=0) - min(negatives)
            soft = kind == "hard_soft"
            values[q] = np.log1p(np.exp(gap)) if soft else max(margin + gap, 0)
    return values * len(x) / max(count, 1), count


# Traced and compiled, one batch stands for all: it has images alone in their class.
BATCHES = [(batch, MODES[0]) for batch in ("balanced", "few_classes", "random")]
BATCHES += [pytest.param("random", m, marks=pytest.mark.slow) for m in MODES[1:]]


@pytest.mark.parametrize(("batch", "mode"), BATCHES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", LOSSES)
def test_values_and_gradients_of_tensorflow_addons(batch, kind, metric, mode):
    loss = LOSSES[kind](0.4, distance_metric=metric)
    labels = GOLDEN[f"{batch}/labels"]
    value, (gradient,) = value_and_gradients(
        lambda x: loss(labels, x), GOLDEN[f"{batch}/embeddings"], mode=mode
    )
    key = f"{batch}/{kind}/{metric}"
    assert value == pytest.approx(float(GOLDEN[f"{key}/loss"]), abs=1e-6)
    np.testing.assert_allclose(gradient, GOLDEN[f"{key}/grad"], atol=1e-6)


# Of whole numbers, distances are exact and often equal.
POINTS = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(-1, 3)),
    min_size=2,
    max_size=12,
)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 25))
@given(
    points=POINTS,
    kind=st.sampled_from(sorted(LOSSES)),
    metric=st.sampled_from(METRICS[:2]),
    margin=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_values_of_plain_loops_with_ties_and_distractors(points, kind, metric, margin):
    points = np.array(points)
    x, labels = points[:, :2].astype(WIDEST), points[:, 2]
    expected, count = plain_values(kind, x, labels, margin, metric)
    loss = LOSSES[kind](margin, distance_metric=metric, reduction=None, dtype=WIDEST)
    if count == 0 and READS_VALUES:
        with pytest.raises(ValueError, match="Expected a triplet"):
            loss(labels, x)
    else:
        np.testing.assert_allclose(loss(labels, x), expected, atol=10 * TOLERANCE)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 25))
@given(
    seed=st.integers(0, 99),
    kind=st.sampled_from(sorted(LOSSES)),
    metric=st.sampled_from(METRICS),
)
def test_order_of_the_batch_does_not_matter(seed, kind, metric):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(9, 3)).astype(WIDEST), rng.integers(-1, 3, 9)
    labels[:3] = 5, 5, 6
    order = rng.permutation(9)
    loss = LOSSES[kind](0.5, distance_metric=metric, reduction=None, dtype=WIDEST)
    values = run(loss, labels, x)
    expected, _ = plain_values(kind, x.astype("float64"), labels, 0.5, metric)
    np.testing.assert_allclose(values, expected, atol=10 * TOLERANCE)
    shuffled = run(loss, labels[order], x[order])
    np.testing.assert_allclose(shuffled, values[order], atol=10 * TOLERANCE)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 25))
@given(
    labels=st.lists(st.integers(0, 4), min_size=4, max_size=12),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 99),
)
def test_loss_is_zero_where_classes_are_apart_by_the_margin(labels, metric, seed):
    labels = np.array([0, 0, 1, *labels])
    x = np.eye(5)[labels] + np.random.default_rng(seed).uniform(0, 0.02, (1, 5))
    assert float(TripletSemiHardLoss(0.8, metric)(labels, x)) == 0
    assert float(TripletHardLoss(0.8, distance_metric=metric)(labels, x)) == 0
    assert float(TripletHardLoss(2.5, distance_metric=metric)(labels, x)) > 0


@slow_on_jax
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["semihard", "hard_soft"])
@pytest.mark.parametrize("x", [np.ones((6, 3)), np.zeros((6, 3))], ids=["one", "zero"])
def test_gradients_of_equal_embeddings_are_finite(x, kind, metric):
    x, labels = x.astype("float32"), np.array([0, 1, 0, 1, 0, 1])
    loss = LOSSES[kind](0.4, distance_metric=metric)
    value, (gradient,) = value_and_gradients(lambda x: loss(labels, x), x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.skipif(WIDEST != "float64", reason="needs float64")
@pytest.mark.parametrize("metric", [*METRICS, manhattan])
@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_equals_finite_differences(kind, metric):
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2, 11, 4))
    labels = np.array([0, 1, 2, -1, 0, 1, 2, 0, 0, 1, 3])
    weight = rng.uniform(0.1, 2, 11)
    loss = LOSSES[kind](0.7, distance_metric=metric, dtype="float64")

    def value(step):
        return loss(labels, keras.ops.convert_to_tensor(x) + step * direction, weight)

    _, (gradient,) = value_and_gradients(value, np.float64(0))
    high, low = (run(value, np.float64(step)) for step in (1e-6, -1e-6))
    assert gradient == pytest.approx((high - low) / 2e-6, rel=1e-6)


@slow_on_jax
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eager"][:1])
@pytest.mark.parametrize("kind", ["semihard", "hard"])
def test_without_a_triplet_the_loss_is_zero_in_a_graph(kind, mode):
    x = unit(np.random.default_rng(1), 4, 3)
    one_class, all_alone = np.zeros(4, int), np.arange(4)
    without = [one_class, np.full(4, -1)]
    without += [all_alone] * (kind == "semihard")
    for labels in without:
        loss = LOSSES[kind](reduction="sum_over_batch_size", dtype=WIDEST)
        value, (gradient,) = value_and_gradients(
            lambda x, loss=loss, labels=labels: loss(labels, x), x, mode=mode
        )
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@slow_on_jax
@pytest.mark.skipif(not READS_VALUES, reason="PyTorch reads no values")
@pytest.mark.parametrize("kind", LOSSES)
def test_a_batch_without_a_triplet_is_refused_where_that_can_be_read(kind):
    x = unit(np.random.default_rng(1), 4, 3)
    with pytest.raises(ValueError, match="Expected a triplet"):
        LOSSES[kind]()(np.zeros(4, int), x)
    if kind == "semihard":
        with pytest.raises(ValueError, match="Expected a triplet"):
            LOSSES[kind]()(np.arange(4), x)
    else:  # each image is its own positive
        expected, _ = plain_values(kind, x, np.arange(4), 1.0, "L2")
        assert float(LOSSES[kind]()(np.arange(4), x)) == pytest.approx(expected.mean())


@slow_on_jax
def test_a_distractor_is_a_negative_to_all_and_no_query():
    x = np.array([[0.0], [1.0], [1.5], [1.25], [9.0]])
    values = np.array(
        TripletSemiHardLoss(reduction=None)(np.array([4, 4, -1, -1, 5]), x)
    )
    # Query 0: 1 + 1 - 1.25, and query 1 has its positive at 1 and a negative at 8.
    np.testing.assert_allclose(values, np.array([0.75, 0, 0, 0, 0]) * 5 / 2)
    values = np.array(TripletHardLoss(reduction=None)(np.array([4, 4, -1, -1, 5]), x))
    np.testing.assert_allclose(values, np.array([0.75, 1.75, 0, 0, 0]) * 5 / 3)


@slow_on_jax
@pytest.mark.parametrize("kind", LOSSES)
def test_reductions_and_sample_weight(kind):
    x = unit(np.random.default_rng(3), 5, 4)
    labels = np.array([[0], [0], [1], [1], [2]])
    weight = np.array([1.0, 2.0, 0.0, 3.0, 7.0])
    values = np.array(LOSSES[kind](reduction=None)(labels, x))
    assert values.shape == (5,)
    assert (values[4] == 0) == (kind == "semihard")

    def loss(reduction, weight=None):
        loss = LOSSES[kind](reduction=reduction)
        return float(loss(labels, x, sample_weight=weight))

    assert loss("sum_over_batch_size") == pytest.approx(values.mean())
    assert loss("mean") == pytest.approx(values.mean())
    assert loss("sum") == pytest.approx(values.sum())
    assert loss("sum", weight) == pytest.approx((values * weight).sum())
    assert loss("mean", weight) == pytest.approx((values * weight).mean())
    mean = np.average(values, weights=weight)
    assert loss("mean_with_sample_weight", weight[:, None]) == pytest.approx(mean)


@slow_on_jax
@pytest.mark.parametrize("dtype", ["int64", "uint32", "int32"])
def test_class_ids_that_collide_as_floats_stay_apart(dtype):
    x = unit(np.random.default_rng(4), 4, 3)
    big = np.array([2**24, 2**24, 2**24 + 1, 2**24 + 1], dtype)
    small = np.array([0, 0, 1, 1])
    expected = float(TripletSemiHardLoss()(small, x))
    assert float(TripletSemiHardLoss()(big, x)) == expected
    if dtype != "int64":
        return
    model = keras.Sequential([keras.layers.Identity()])
    model.compile(loss=TripletSemiHardLoss())
    history = model.fit(x, big, batch_size=4, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected)


@slow_on_jax
@pytest.mark.parametrize(
    "kind", ["semihard", pytest.param("hard", marks=pytest.mark.slow)]
)
def test_fits_in_a_graph_as_a_loss_of_a_model(kind):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(24, 6)).astype("float32"), np.arange(24) % 4
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.UnitNormalization()])
    compiled = False if BACKEND == "tensorflow" else "auto"
    loss = LOSSES[kind](0.4)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=compiled)
    history = model.fit(
        x, labels, batch_size=16, epochs=8, shuffle=False, verbose=0
    ).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


@slow_on_jax
def test_functions_can_be_compiled_as_losses():
    x, labels = unit(np.random.default_rng(6), 8, 4), np.arange(8) % 2
    for function, kind in (
        (triplet_semihard_loss, TripletSemiHardLoss),
        (triplet_hard_loss, TripletHardLoss),
    ):
        model = keras.Sequential([keras.layers.Identity()])
        model.compile(loss=function)
        history = model.fit(x, labels, batch_size=8, verbose=0).history
        assert history["loss"][0] == pytest.approx(float(kind()(labels, x)))


@slow_on_jax
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", ["semihard", "hard"])
def test_arithmetic_is_float32_under_mixed_precision(kind, policy):
    x, labels = unit(np.random.default_rng(7), 16, 8), np.arange(16) // 4
    half = keras.ops.cast(x, policy.removeprefix("mixed_"))
    exact = keras.ops.cast(half, "float32")
    keras.config.set_dtype_policy(policy)
    try:
        loss = LOSSES[kind]()(labels, half)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert float(loss) == pytest.approx(float(LOSSES[kind]()(labels, exact)))


@on_tensorflow  # elsewhere sizes are always known
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["semihard", "hard"])
def test_batch_size_may_be_unknown_when_the_graph_is_traced(kind, mode):
    import tensorflow as tf

    x = unit(np.random.default_rng(8), 10, 4).astype("float32")
    labels = np.arange(10) // 2
    for metric in ("L2", manhattan):
        loss = LOSSES[kind](distance_metric=metric)
        spec = [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, 4])]
        traced = tf.function(loss, input_signature=spec, jit_compile=mode == "xla")
        assert float(traced(labels, x)) == pytest.approx(float(loss(labels, x)))
        # And a batch of one, which no longer can be refused, is harmless.
        assert float(traced(labels[:1], x[:1])) == 0


@slow_on_jax
@pytest.mark.parametrize(
    ("metric", "wrong"), [("L2", np.nan), ("angular", 1e20), (manhattan, np.inf)]
)
@pytest.mark.parametrize("kind", ["semihard", "hard"])
def test_embeddings_that_are_not_finite_raise_or_give_nan(kind, metric, wrong):
    x = unit(np.random.default_rng(9), 6, 3).astype("float32")
    x[2, 1] = wrong
    labels, loss = np.array([0, 0, 1, 1, 2, 2]), LOSSES[kind](distance_metric=metric)
    if READS_VALUES:
        with pytest.raises(ValueError, match=r"finite embeddings.*row 2"):
            loss(labels, x)
    for mode in [mode for mode in MODES if mode != "eager" or not READS_VALUES][:1]:
        assert np.isnan(run(lambda x: loss(labels, x), x, mode=mode))


@slow_on_jax
@each_mode_slowly
def test_a_distance_of_ones_own_that_is_not_finite_gives_nan(mode):
    loss = TripletSemiHardLoss(distance_metric=lambda x: manhattan(x) * float("nan"))
    x = unit(np.random.default_rng(9), 4, 3)
    assert np.isnan(run(lambda x: loss(np.array([0, 0, 1, 1]), x), x, mode=mode))


@pytest.mark.parametrize(
    ("labels", "embeddings", "message"),
    [
        (np.eye(2, dtype=int), np.eye(2), "One-hot"),
        (np.array([0, 1, 1]), np.eye(2), r"one embedding per label, shape \(3, D\)"),
        (np.array([0, 1]), np.ones(2), "one embedding per label"),
        (np.array(["a", "a"]), np.eye(2), "integer class labels"),
        (np.array([0]), np.eye(1), "A batch of one"),
    ],
)
def test_wrong_input_is_named(labels, embeddings, message):
    for loss in (TripletSemiHardLoss(), TripletHardLoss(), triplet_semihard_loss):
        with pytest.raises(ValueError, match=message):
            loss(labels, embeddings)


@slow_on_jax
@each_mode_slowly
@pytest.mark.parametrize("loss", [TripletSemiHardLoss(), triplet_semihard_loss])
def test_float_labels_pass_if_they_are_whole_numbers(loss, mode):
    labels = np.array([0, 0, 1, 1], "float32")
    x = unit(np.random.default_rng(8), 4, 3)
    expected = run(lambda x: loss(labels.astype(int), x), x)
    np.testing.assert_allclose(run(loss, labels, x, mode=mode), expected, rtol=1e-6)
    labels[1] = 0.5
    if mode == "eager" and READS_VALUES:
        with pytest.raises(ValueError, match="integer class labels"):
            loss(labels, x)
    else:
        assert np.isnan(run(loss, labels, x, mode=mode)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"margin": "1"}, "margin"),
        ({"distance_metric": "cosine"}, "distance_metric"),
        ({"distance_metric": None}, "distance_metric"),
        ({"dtype": "float16"}, "16 bits"),
        ({"reduction": "median"}, "reduction"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    for kind in LOSSES.values():
        with pytest.raises(ValueError, match=message):
            kind(**arguments)


def test_wrong_weights_and_distances_are_named():
    x, labels = unit(np.random.default_rng(8), 3, 3), np.array([0, 0, 1])
    with pytest.raises(ValueError, match="one weight per query"):
        TripletHardLoss()(labels, x, sample_weight=np.ones(2))
    with pytest.raises(ValueError, match=r"shape \(3, 3\)\. Received: shape=\(3,\)"):
        TripletHardLoss(distance_metric=lambda x: x[:, 0])(labels, x)


@slow_on_jax
@pytest.mark.parametrize("metric", ["angular", manhattan])
@pytest.mark.parametrize(
    "loss",
    [
        lambda metric: TripletSemiHardLoss(0.3, metric, "mine", reduction="sum"),
        lambda metric: TripletHardLoss(0.3, True, metric, dtype="float64"),
    ],
)
def test_config_round_trip_and_reload_with_a_compiled_model(loss, metric, tmp_path):
    loss = loss(metric)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert again.distance_metric == metric
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert reloaded.loss.get_config() == loss.get_config()
    assert reloaded.loss.distance_metric == metric


@slow_on_jax
def test_memory_grows_with_the_square_of_the_batch():
    """All triplets of this batch would be 8 GiB."""
    x = unit(np.random.default_rng(10), 2048, 8).astype("float32")
    labels = np.arange(2048) // 4
    value, (gradient,) = value_and_gradients(
        lambda x: TripletSemiHardLoss(0.4)(labels, x), x, mode=MODES[-1]
    )
    assert 0 < value < 0.5
    assert np.isfinite(gradient).all()
