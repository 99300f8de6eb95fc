"""The quantized AP and its loss against golden files, oracles and properties."""

import functools

import keras
import numpy as np
import pytest
from gradients import (
    MANY,
    MODES,
    ONLY_SLOW_ON_JAX,
    READS_VALUES,
    TOLERANCE,
    WIDEST,
    differentiated,
    each_mode,
    each_mode_slowly,
    normalize,
    on_tensorflow,
    run,
    slow_on_jax,
    unit,
    value_and_gradients,
)
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from published import CASES, golden, golden_bins
from sklearn.metrics import average_precision_score

from keras_aploss import APLoss, ap_loss, quantized_average_precision


def plain_quantized_ap(similarity, relevance, num_bins=20, limits=(-1.0, 1.0)):
    """Eq. 7-11, word for word, for one query: the oracle."""
    low, high = limits
    delta = (high - low) / (num_bins - 1)
    centres = [high - m * delta for m in range(num_bins)]
    above = positives_above = ap = 0.0
    for centre in centres:
        kernel = np.maximum(
            1 - np.abs(np.clip(similarity, low, high) - centre) / delta, 0
        )
        above += kernel.sum()
        positives_above += (kernel * relevance).sum()
        if above > 0:
            recall = (kernel * relevance).sum() / relevance.sum()
            ap += positives_above / above * recall
    return ap


@pytest.mark.parametrize("case", CASES)
def test_ap_of_the_published_code(case):
    embeddings = golden(case, "embeddings").astype("float32")
    labels = golden(case, "labels")
    relevance = labels[:, None] == labels[None, :]

    def function(x):
        similarity = keras.ops.matmul(x, keras.ops.transpose(x))
        return quantized_average_precision(similarity, relevance, **golden_bins(case))

    ap = run(function, embeddings)
    np.testing.assert_allclose(ap, golden(case, "ap"), atol=1e-5)


@each_mode_slowly
@pytest.mark.parametrize("dtype", sorted({"float32", WIDEST}))
@pytest.mark.parametrize("case", CASES)
def test_gradient_of_the_published_code(case, dtype, mode):
    expected = golden(case, "ap_loss_grad_unnormalized")
    labels = golden(case, "labels")
    loss = APLoss(**golden_bins(case), dtype=dtype)
    value, (gradient,) = value_and_gradients(
        lambda x: loss(labels, normalize(x)),
        golden(case, "unnormalized").astype(dtype),
        mode=mode,
    )
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(
        value, 1 - golden(case, "ap").mean(), atol=tolerance / 10
    )
    # The gradient of "separated" is zero (7e-19): there the bound is absolute.
    scale = np.linalg.norm(expected) if case != "separated" else 1e-2
    assert np.linalg.norm(gradient - expected) < tolerance * scale


@pytest.mark.skipif(WIDEST != "float64", reason="needs float64")
@pytest.mark.parametrize("with_database", [False, True])
def test_gradient_equals_finite_differences(with_database):
    rng = np.random.default_rng(0)
    embeddings, labels = unit(rng, 12, 5), np.arange(12) % 4
    database, database_labels = unit(rng, 9, 5), np.arange(9) % 5 - 1
    directions = rng.normal(size=(12, 5)), rng.normal(size=(9, 5))

    def value(step):
        x, y = (
            normalize(keras.ops.convert_to_tensor(start) + step * direction)
            for start, direction in zip((embeddings, database), directions, strict=True)
        )
        if with_database:
            values = ap_loss(x, labels, y, database_labels, block_size=5)
        else:
            values = ap_loss(x, labels, exclude_self=True, block_size=5)
        return keras.ops.mean(values)

    _, (gradient,) = value_and_gradients(value, np.float64(0))
    high, low = (run(value, np.float64(step)) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(gradient, (high - low) / 2e-6, rtol=1e-6)


@slow_on_jax
def test_gradient_to_similarities_equals_that_of_the_plain_formula():
    rng = np.random.default_rng(1)
    similarity = rng.uniform(-1.3, 1.3, (2, 20)).astype(WIDEST)
    relevance = rng.random((2, 20)) < 0.3
    _, (gradient,) = value_and_gradients(
        lambda s: keras.ops.sum(quantized_average_precision(s, relevance)), similarity
    )
    step = 1e-7
    for row, column in np.ndindex(*similarity.shape):
        moved = similarity[row].astype("float64"), similarity[row].astype("float64")
        moved[0][column] += step
        moved[1][column] -= step
        high, low = (plain_quantized_ap(one, relevance[row]) for one in moved)
        expected = (high - low) / (2 * step)
        assert gradient[row, column] == pytest.approx(expected, abs=1e-4, rel=1e-4)


BINS = [(20, (-1.0, 1.0))]
OTHER_BINS = [(25, (0.0, 1.0)), (2, (-1.0, 1.0)), (5, (-1.0, 1.0)), (12, (-0.3, 0.7))]
BINS += [pytest.param(*bins, marks=ONLY_SLOW_ON_JAX) for bins in OTHER_BINS]


@functools.cache
def both_ways(num_bins, limits):
    """The weighted loss and its gradients, by definition and in closed form.

    Both take queries, database, labels of both and weights of queries.
    """
    bins = {"num_bins": num_bins, "similarity_range": limits}

    def definition(queries, database, labels, database_labels, weight):
        relevance = labels[:, None] == database_labels[None, :]
        relevance = keras.ops.logical_and(relevance, labels[:, None] >= 0)
        similarity = keras.ops.matmul(queries, keras.ops.transpose(database))
        ap = quantized_average_precision(similarity, relevance, **bins)
        has_positives = keras.ops.any(relevance, axis=1)
        return keras.ops.sum(weight * keras.ops.where(has_positives, 1.0 - ap, 0.0))

    def fast(queries, database, labels, database_labels, weight):
        values = ap_loss(queries, labels, database, database_labels, **bins)
        return keras.ops.sum(weight * values)

    mode = "graph" if "graph" in MODES else MODES[0]  # traced once, then quick
    ways = definition, fast
    return [differentiated(way, num_constants=3, mode=mode) for way in ways]


def near_a_kink(similarity, num_bins, limits):
    """The rows with a similarity so near to a bin centre that rounding can cross it."""
    position = (limits[1] - similarity) / (limits[1] - limits[0]) * (num_bins - 1)
    return (np.abs(position - np.round(position)) < 1e-3).any(axis=1)


@pytest.mark.parametrize(("num_bins", "limits"), BINS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_the_fast_way_equals_the_definition_in_values_and_gradients(
    num_bins, limits, data
):
    """Ties, similarities of 1 and -1, on centres and beyond the range, distractors."""
    centres = [c for c in np.linspace(*limits, num_bins).tolist() if abs(c) <= 1]
    extreme = st.sampled_from([-1.0, 1.0, *centres])
    row = st.one_of(st.floats(-1, 1), extreme)
    similarity = np.array(data.draw(st.lists(row, min_size=8, max_size=8)))
    angles = data.draw(st.lists(st.floats(-3, 3), min_size=2, max_size=2))
    label = st.integers(-1, 1)
    labels = np.array(data.draw(st.lists(label, min_size=3, max_size=3)), "int32")
    database_labels = st.one_of(
        st.lists(label, min_size=8, max_size=8),
        st.integers(0, 7).map(lambda i: [int(j == i) for j in range(8)]),
        st.just([1] * 8),
    )
    database_labels = np.array(data.draw(database_labels), "int32")
    labels[0], database_labels[0] = 1, 1  # a query with a positive
    # To the first query, (1, 0), the database has these similarities exactly.
    angles = np.array([0.0, *angles])
    queries = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(WIDEST)
    database = np.stack([similarity, np.sqrt(1 - similarity**2)], axis=1)
    database = database.astype(WIDEST)
    weight = np.array([1.0, 0.7, -0.4], WIDEST)
    constants = labels, database_labels
    definition, fast = both_ways(num_bins, limits)
    expected, _ = definition(queries, database, *constants, weight)
    value, _ = fast(queries, database, *constants, weight)
    assert value == pytest.approx(expected, abs=10 * TOLERANCE)
    weight[near_a_kink(queries @ database.T, num_bins, limits)] = 0
    _, expected = definition(queries, database, *constants, weight)
    _, gradients = fast(queries, database, *constants, weight)
    for gradient, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=num_bins * 10 * TOLERANCE)


@slow_on_jax
@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_loss_of_a_batch_equals_the_definition(exclude_self):
    """Ties, an opposite, a class of one image and a distractor; in one list each."""
    x = unit(np.random.default_rng(2), 12, 4)
    x[1], x[2], x[3] = x[0], x[0], -x[0]
    labels = np.array([0, 0, 1, 0, 1, 1, 2, 2, 2, 3, -1, 2])
    columns = np.array([[j for j in range(12) if j != i] for i in range(12)])
    columns = columns if exclude_self else np.tile(np.arange(12), (12, 1))
    relevance = labels[:, None] == labels[columns]
    relevance &= labels[:, None] >= 0
    is_query = relevance.any(axis=1)

    def definition(x):
        similarity = keras.ops.matmul(normalize(x), keras.ops.transpose(normalize(x)))
        similarity = keras.ops.take_along_axis(similarity, columns, axis=1)
        ap = quantized_average_precision(similarity, relevance)
        return keras.ops.sum(keras.ops.where(is_query, 1.0 - ap, 0.0)) / is_query.sum()

    loss = APLoss(exclude_self=exclude_self, dtype=WIDEST)
    expected, (gradient,) = value_and_gradients(definition, x)
    value, (same,) = value_and_gradients(lambda x: loss(labels, normalize(x)), x)
    assert value == pytest.approx(expected, abs=10 * TOLERANCE)
    np.testing.assert_allclose(same, gradient, atol=100 * TOLERANCE)


def test_at_a_kink_the_fast_way_has_the_slope_of_the_definition_from_below():
    query, row = np.array([[1.0, 0.0]], WIDEST), np.array([[0.5, 0.75**0.5]], WIDEST)
    database, labels = np.repeat(row, 2, axis=0), np.array([0, 1])
    arguments = query, database, labels[:1], labels, np.ones(1, WIDEST)
    definition, fast = both_ways(5, (-1.0, 1.0))
    database[:] = [0.5 - 1e-4, row[0, 1]]
    expected = definition(*arguments)[1][1]
    database[:] = row
    np.testing.assert_allclose(fast(*arguments)[1][1], expected, atol=1e-3)
    assert np.abs(expected).max() > 0.1


def test_equals_exact_ap_when_similarities_are_distinct_bin_centres():
    rng = np.random.default_rng(1)
    centres = np.linspace(-1, 1, 41)
    similarity = np.array([rng.permutation(centres) for _ in range(20)])
    relevance = rng.random((20, 41)) < 0.3
    ap = quantized_average_precision(similarity, relevance, num_bins=41)
    exact = [
        average_precision_score(*row) for row in zip(relevance, similarity, strict=True)
    ]
    np.testing.assert_allclose(ap, exact, atol=1e-6)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 20))
@given(data=st.data(), num_bins=st.integers(2, 40))
def test_equals_the_plain_formula_and_does_not_depend_on_order(data, num_bins):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    similarity = data.draw(
        hnp.arrays(WIDEST, shape, elements=st.floats(-1.25, 1.25, width=32))
    )
    relevance = data.draw(hnp.arrays("bool", shape))
    ap = np.array(quantized_average_precision(similarity, relevance, num_bins=num_bins))
    for row in range(shape[0]):
        expected = 0.0
        if relevance[row].any():
            expected = plain_quantized_ap(similarity[row], relevance[row], num_bins)
        assert ap[row] == pytest.approx(expected, abs=TOLERANCE)
    order = np.random.default_rng(0).permutation(shape[1])
    shuffled = quantized_average_precision(
        similarity[:, order], relevance[:, order], num_bins=num_bins
    )
    np.testing.assert_allclose(shuffled, ap, atol=TOLERANCE)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 20))
@given(
    labels=st.lists(st.integers(-2, 3), min_size=1, max_size=10),
    exclude_self=st.booleans(),
    seed=st.integers(0, 99),
)
def test_loss_is_a_mean_over_queries_with_positives(labels, exclude_self, seed):
    labels = np.array(labels)
    x = unit(np.random.default_rng(seed), len(labels), 3)
    values = []
    for i, label in enumerate(labels):
        keep = np.ones(len(labels), bool)
        keep[i] = not exclude_self
        relevance = (labels == label)[keep]
        if label >= 0 and relevance.any():
            values.append(1 - plain_quantized_ap((x @ x[i])[keep], relevance))
    loss = APLoss(exclude_self=exclude_self, dtype=WIDEST)
    if not (np.unique(labels[labels >= 0], return_counts=True)[1] > 1).any():
        values = []  # every query finds only itself
    if len(labels) == 1 or (not values and READS_VALUES):
        with pytest.raises(ValueError, match=r"with positives|A batch of one"):
            loss(labels, x)
    else:
        expected = np.mean(values) if values else 0
        assert float(loss(labels, x)) == pytest.approx(expected, abs=TOLERANCE)


@slow_on_jax
def test_distractors_are_in_the_lists_but_never_queries_nor_relevant():
    x = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], "float32")
    labels = np.array([5, 5, -1, -1])
    values = APLoss(reduction=None)(labels, x)
    # Query 0: itself and two distractors share the first bin, its mate is below.
    assert float(values[0]) == pytest.approx(1 - (1 / 3 + 2 / 4) / 2, abs=0.02)
    np.testing.assert_array_equal(np.array(values[2:]), [0, 0])
    alone = APLoss()(labels[:2], x[:2])
    assert float(APLoss()(labels, x)) > float(alone)


@slow_on_jax
def test_reductions_and_sample_weight():
    x = unit(np.random.default_rng(3), 5, 4)
    labels = np.array([[0], [0], [1], [1], [2]])  # the last has no other of its class
    weight = np.array([1.0, 2.0, 0.0, 3.0, 7.0])
    values = np.array(APLoss(exclude_self=True, reduction=None)(labels, x))
    assert values.shape == (5,)
    assert values[4] == 0

    def loss(reduction, weight=None):
        loss = APLoss(exclude_self=True, reduction=reduction)
        return float(loss(labels, x, sample_weight=weight))

    assert loss("sum_over_batch_size") == pytest.approx(values[:4].mean())
    assert loss("mean") == pytest.approx(values[:4].mean())
    assert loss("sum") == pytest.approx(values.sum())
    assert loss("sum", weight) == pytest.approx((values * weight).sum())
    assert loss("mean", weight) == pytest.approx((values * weight).sum() / 4)
    mean = np.average(values[:4], weights=weight[:4])
    assert loss("mean_with_sample_weight", weight[:, None]) == pytest.approx(mean)


@slow_on_jax
@pytest.mark.parametrize("dtype", ["int64", "uint32", "int32"])
def test_class_ids_that_collide_as_floats_stay_apart(dtype):
    x = unit(np.random.default_rng(4), 4, 3)
    big = np.array([2**24, 2**24, 2**24 + 1, 2**24 + 1], dtype)
    small = np.array([0, 0, 1, 1])
    assert float(APLoss()(big, x)) == float(APLoss()(small, x))
    if dtype != "int64":
        return
    model = keras.Sequential([keras.layers.UnitNormalization()])
    model.compile(loss=APLoss())
    history = model.fit(x, big, batch_size=4, verbose=0)
    assert history.history["loss"][0] == pytest.approx(float(APLoss()(small, x)))


@slow_on_jax
@pytest.mark.parametrize("policy", ["mixed_bfloat16"])
def test_arithmetic_is_float32_under_mixed_precision(policy):
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(64, 8)).astype("float32"), np.arange(64) // 4
    keras.config.set_dtype_policy(policy)
    try:
        outputs = keras.layers.UnitNormalization()(keras.ops.convert_to_tensor(x))
        loss = APLoss()(labels, outputs)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix(
        "mixed_"
    )
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    exact = APLoss()(labels, x / np.linalg.norm(x, axis=1, keepdims=True))
    assert float(loss) == pytest.approx(float(exact), abs=3e-3)


@on_tensorflow  # elsewhere sizes are always known
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_batch_size_may_be_unknown_when_the_graph_is_traced(mode):
    import tensorflow as tf

    x = unit(np.random.default_rng(6), 10, 4).astype("float32")
    labels = np.arange(10) // 2
    for arguments in ({}, {"exclude_self": True}, {"block_size": 3}):
        loss = APLoss(**arguments)
        spec = [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, 4])]
        traced = tf.function(loss, input_signature=spec, jit_compile=mode == "xla")
        assert float(traced(labels, x)) == pytest.approx(float(loss(labels, x)))
        # And a batch of one, which no longer can be refused, is harmless.
        assert float(traced(labels[:1], x[:1])) == 0


@pytest.mark.parametrize("wrong", ["not unit", "nan"])
def test_wrong_embeddings_raise_in_eager_mode_and_give_nan_in_a_graph(wrong):
    x = unit(np.random.default_rng(7), 4, 3).astype("float32")
    x[2] = {"not unit": 3 * x[2], "nan": np.nan}[wrong]
    labels = np.array([0, 0, 1, 1])
    if READS_VALUES:
        with pytest.raises(ValueError, match=r"unit length.*first is row 2"):
            APLoss()(labels, x)
    for mode in [mode for mode in MODES if mode != "eager" or not READS_VALUES][:1]:
        assert np.isnan(run(lambda x: APLoss()(labels, x), x, mode=mode))


@pytest.mark.parametrize(
    ("labels", "embeddings", "message"),
    [
        (np.eye(2, dtype=int), np.eye(2), "One-hot"),
        (np.array([0, 1, 1]), np.eye(2), r"one embedding per label, shape \(3, D\)"),
        (np.array([0, 1]), np.ones(2), "one embedding per label"),
    ],
)
def test_wrong_input_is_named(labels, embeddings, message):
    with pytest.raises(ValueError, match=message):
        APLoss()(labels, embeddings)


@slow_on_jax
@each_mode_slowly
@pytest.mark.parametrize("wrong", [0.5, np.nan, 2.0**25])
def test_float_labels_pass_if_they_are_whole_numbers(wrong, mode):
    labels = np.array([0, 0, 1, 1], "float32")
    x = unit(np.random.default_rng(8), 4, 3)
    expected = run(lambda x: APLoss()(labels.astype(int), x), x)
    assert run(APLoss(), labels, x, mode=mode) == pytest.approx(expected)
    labels[1] = wrong
    if mode == "eager" and READS_VALUES:
        with pytest.raises(ValueError, match="integer class labels"):
            APLoss()(labels, x)
    else:
        assert np.isnan(run(APLoss(), labels, x, mode=mode))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bins": 1}, "num_bins"),
        ({"num_bins": 2.5}, "num_bins"),
        ({"similarity_range": (1, 1)}, "similarity_range"),
        ({"similarity_range": (0, float("nan"))}, "similarity_range"),
        ({"similarity_range": (0,)}, "similarity_range"),
        ({"dtype": "float16"}, "16 bits"),
        ({"dtype": "mixed_bfloat16"}, "16 bits"),
        ({"reduction": "median"}, "reduction"),
        ({"block_size": 0}, "block_size"),
        ({"block_size": -4}, "block_size"),
        ({"block_size": 2.5}, "block_size"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        APLoss(**arguments)


def test_quantized_ap_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"\(Q, N\)"):
        quantized_average_precision(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"\(Q, N\)"):
        quantized_average_precision(np.zeros(3), np.zeros(3))


def test_config_round_trip_and_reload_with_a_compiled_model(tmp_path):
    loss = APLoss(25, (0, 1), exclude_self=True, reduction="sum", block_size=7)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.exclude_self
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.UnitNormalization()]
    )
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert reloaded.loss.get_config() == loss.get_config()


@slow_on_jax
@each_mode
def test_same_input_same_bits(mode):
    x = unit(np.random.default_rng(9), 256, 16).astype("float32")
    loss, labels = APLoss(block_size=50), np.arange(256) // 4
    first, again = (
        value_and_gradients(lambda x: loss(labels, x), x, mode=mode) for _ in range(2)
    )
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


@each_mode_slowly
def test_nan_similarity_gives_nan_in_its_row_only_and_relevance_is_binary(mode):
    similarity = np.array([[np.nan, 0.5, 0.2], [np.inf, 0.5, 0.2], [0, 0, np.nan]])
    ap, again = (
        run(lambda s, y: quantized_average_precision(s, y), similarity, y, mode=mode)
        for y in (
            np.array([[5, 0, -1], [5, 0, -1], [0, 0, 0]]),
            np.array([[True, False, False]] * 2 + [[False] * 3]),
        )
    )
    np.testing.assert_array_equal(np.isnan(ap), [True, False, True])
    assert ap[1] == again[1] <= 1


@slow_on_jax
def test_a_row_without_positives_has_no_ap_and_no_gradient():
    similarity = np.array([[0.9, -2.0, 0.1], [0.3, 0.2, -0.4]])
    relevance = np.array([[False] * 3, [True, False, False]])
    ap = run(lambda s: quantized_average_precision(s, relevance), similarity)
    assert ap[0] == 0 < ap[1]
    _, (gradient,) = value_and_gradients(
        lambda s: keras.ops.sum(quantized_average_precision(s, relevance)), similarity
    )
    assert not gradient[0].any()
    assert gradient[1].any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", WIDEST])
def test_quantized_ap_computes_in_32_bits_or_more(dtype):
    similarity = keras.ops.convert_to_tensor([[0.5, 0.25]], dtype=dtype)
    ap = quantized_average_precision(similarity, [[False, True]])
    wide = dtype if dtype == "float64" else "float32"
    assert keras.backend.standardize_dtype(ap.dtype) == wide


@pytest.mark.parametrize(
    ("labels", "weight", "message"),
    [
        (np.array([0, 0, 1]), np.ones(2), "one weight per query"),
        (np.array([0, 0, 1]), np.ones((3, 3)), "one weight per query"),
        (np.array(["a", "a", "b"]), None, "integer class labels"),
        (np.zeros(0, int), None, "at least one image"),
    ],
)
def test_wrong_weights_and_labels_are_named(labels, weight, message):
    x = unit(np.random.default_rng(8), 3, 3)
    with pytest.raises(ValueError, match=message):
        APLoss()(labels, x, sample_weight=weight)


@slow_on_jax
def test_a_batch_without_another_positive_teaches_nothing():
    """Though each query is a positive of itself, the loss does not fall."""
    x, labels = unit(np.random.default_rng(3), 5, 4), np.array([3, 1, 4, -1, -1])
    mode = "graph" if "graph" in MODES else MODES[0]
    loss = APLoss(dtype=WIDEST)
    value, (gradient,) = value_and_gradients(
        lambda x: loss(labels, normalize(x)), x, mode=mode
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(x))
    if READS_VALUES:
        with pytest.raises(ValueError, match="another image of its class"):
            ap_loss(x, labels)
