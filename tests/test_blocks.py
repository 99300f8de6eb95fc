"""Lists in blocks: the same whatever the block, and never all similarities at once."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from gradients import (
    BACKEND,
    MANY,
    TOLERANCE,
    WIDEST,
    each_mode_slowly,
    normalize,
    on_tensorflow,
    run,
    slow_on_jax,
    unit,
    value_and_gradients,
)
from hypothesis import given, settings, strategies as st
from test_histogram import plain_counts

from keras_aploss import APLoss, ap_loss
from keras_aploss.losses import blocks, histogram

BINS = histogram.Bins(20, -1.0, 1.0)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 15))
@given(
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=17),
    block_size=st.integers(1, 20),
    exclude_self=st.booleans(),
)
def test_counts_of_a_batch_equal_their_definition(labels, block_size, exclude_self):
    labels = np.array(labels, "int32")
    x = unit(np.random.default_rng(0), len(labels), 3)
    result = run(
        lambda x, labels: blocks.counts_in_batch(
            x, labels, BINS, exclude_self=exclude_self, block_size=block_size
        ),
        x,
        labels,
    )
    for i, label in enumerate(labels):
        others = np.arange(len(labels)) != i if exclude_self else slice(None)
        relevance = (labels == label) & (label >= 0)
        expected = plain_counts((x @ x[i])[others], relevance[others], BINS)
        np.testing.assert_allclose(result[i], expected, atol=10 * TOLERANCE)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 15))
@given(
    query_labels=st.lists(st.integers(-2, 4), min_size=1, max_size=9),
    database_labels=st.lists(st.integers(-2, 4), min_size=1, max_size=12),
    block_size=st.integers(1, 10),
)
def test_counts_of_a_database_equal_their_definition(
    query_labels, database_labels, block_size
):
    query_labels = np.array(query_labels, "int32")
    database_labels = np.array(database_labels, "int32")
    rng = np.random.default_rng(0)
    queries, database = (
        unit(rng, len(query_labels), 3),
        unit(rng, len(database_labels), 3),
    )
    result = run(
        lambda *tensors: blocks.counts_in_database(
            *tensors, BINS, block_size=block_size
        ),
        queries,
        query_labels,
        database,
        database_labels,
    )
    for i, label in enumerate(query_labels):
        relevance = (database_labels == label) & (label >= 0)
        expected = plain_counts(database @ queries[i], relevance, BINS)
        np.testing.assert_allclose(result[i], expected, atol=10 * TOLERANCE)


@slow_on_jax
@each_mode_slowly
@pytest.mark.parametrize("exclude_self", [False, True])
def test_block_size_changes_nothing(mode, exclude_self):
    rng = np.random.default_rng(1)
    x, labels = unit(rng, 61, 8), rng.integers(-1, 12, 61)

    def loss(block_size):
        return value_and_gradients(
            lambda x: keras.ops.sum(
                ap_loss(
                    normalize(x),
                    labels,
                    exclude_self=exclude_self,
                    block_size=block_size,
                )
            ),
            x,
            mode=mode,
        )

    value, (gradient,) = loss(None)
    assert np.abs(gradient).max() > 0.01
    # Of one image, with a rest, and more than there are: each is traced.
    for block_size in (1, 20, 7, 1000) if mode == "eager" else (7, 1000):
        same_value, (same_gradient,) = loss(block_size)
        assert same_value == pytest.approx(value, rel=TOLERANCE)
        np.testing.assert_allclose(same_gradient, gradient, atol=TOLERANCE)


@on_tensorflow
@each_mode_slowly
def test_where_similarities_are_exact_no_bit_depends_on_the_block_size(mode):
    # Coordinates of ±1/4: sums of their products are exact in any order.
    x = np.random.default_rng(2).choice([-0.25, 0.25], (50, 16)).astype("float32")
    labels = np.arange(50) // 5
    expected = run(lambda x: ap_loss(x, labels, num_bins=14), x, mode=mode)
    for block_size in (1, 7, 16, 25):
        values = run(
            lambda x, size=block_size: ap_loss(x, labels, num_bins=14, block_size=size),
            x,
            mode=mode,
        )
        np.testing.assert_array_equal(values, expected)


@each_mode_slowly
def test_a_batch_is_a_database_of_itself(mode):
    rng = np.random.default_rng(3)
    x, labels = unit(rng, 30, 6), rng.integers(-1, 6, 30)
    value, (gradient,) = value_and_gradients(
        lambda x: keras.ops.sum(ap_loss(normalize(x), labels, block_size=7)),
        x,
        mode=mode,
    )
    same_value, gradients = value_and_gradients(
        lambda x, y: keras.ops.sum(
            ap_loss(normalize(x), labels, normalize(y), labels, block_size=4)
        ),
        x,
        x,
        mode=mode,
    )
    assert same_value == pytest.approx(value, rel=TOLERANCE)
    np.testing.assert_allclose(sum(gradients), gradient, atol=TOLERANCE)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 15))
@given(
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=17),
    sizes=st.tuples(st.integers(0, 17), st.integers(0, 17)),
    block_size=st.integers(1, 20),
)
def test_queries_in_the_database_are_left_out_as_in_a_batch(labels, sizes, block_size):
    labels = np.array(labels, "int32")
    x = unit(np.random.default_rng(0), len(labels), 3)
    first = min(sizes[0], len(labels) - 1)
    part = slice(first, first + max(1, sizes[1]))
    expected = run(
        lambda x, labels: blocks.counts_in_batch(x, labels, BINS, exclude_self=True),
        x,
        labels,
    )
    result = run(
        lambda *tensors: blocks.counts_in_database(
            *tensors, BINS, first=first, block_size=block_size
        ),
        x[part],
        labels[part],
        x,
        labels,
    )
    np.testing.assert_allclose(result, expected[part], atol=10 * TOLERANCE)


@each_mode_slowly
def test_gradients_of_parts_that_are_left_out_add_up_to_that_of_the_batch(mode):
    rng = np.random.default_rng(8)
    x, labels = unit(rng, 30, 6), rng.integers(-1, 6, 30)
    upstream = rng.normal(size=(30, 2, BINS.num_bins)).astype(WIDEST)

    def of_batch(x):
        counts = blocks.counts_in_batch(normalize(x), labels, BINS, exclude_self=True)
        return keras.ops.sum(counts * keras.ops.convert_to_tensor(upstream))

    def of_parts(x):
        x, total = normalize(x), 0.0
        for first, end in (0, 13), (13, 14), (14, 30):
            counts = blocks.counts_in_database(
                x[first:end],
                labels[first:end],
                x,
                labels,
                BINS,
                first=first,
                block_size=7,
            )
            part = keras.ops.convert_to_tensor(upstream[first:end])
            total = total + keras.ops.sum(counts * part)
        return total

    value, (gradient,) = value_and_gradients(of_batch, x, mode=mode)
    same_value, (same_gradient,) = value_and_gradients(of_parts, x, mode=mode)
    assert np.abs(gradient).max() > 0.1
    assert same_value == pytest.approx(value, rel=100 * TOLERANCE)
    np.testing.assert_allclose(same_gradient, gradient, atol=100 * TOLERANCE)


@on_tensorflow
@each_mode_slowly
def test_no_query_has_no_counts_and_no_gradient(mode):
    x, labels = unit(np.random.default_rng(9), 5, 3), np.arange(5)

    def loss(queries, database):
        counts = blocks.counts_in_database(
            queries, labels[:0], database, labels, BINS, first=5
        )
        assert counts.shape == (0, 2, BINS.num_bins)
        return keras.ops.sum(counts)

    value, gradients = value_and_gradients(loss, x[:0], x, mode=mode)
    assert value == 0
    np.testing.assert_array_equal(gradients[1], 0 * x)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 4))  # each a second
@given(seed=st.integers(0, 999), block_size=st.integers(1, 12))
def test_an_order_of_the_batch_is_an_order_of_values_and_gradients(seed, block_size):
    rng = np.random.default_rng(seed)
    x, labels, order = unit(rng, 12, 4), rng.integers(-1, 4, 12), rng.permutation(12)
    weight = rng.normal(size=12).astype(WIDEST)
    if np.all(labels < 0):
        return

    def loss(x, labels, weight):
        return value_and_gradients(
            lambda x: keras.ops.sum(
                keras.ops.convert_to_tensor(weight)
                * ap_loss(normalize(x), labels, block_size=block_size)
            ),
            x,
        )

    value, (gradient,) = loss(x, labels, weight)
    same_value, (reordered,) = loss(x[order], labels[order], weight[order])
    assert same_value == pytest.approx(value, abs=10 * TOLERANCE)
    np.testing.assert_allclose(reordered, gradient[order], atol=10 * TOLERANCE)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_labels_are_compared_as_integers(dtype):
    x = unit(np.random.default_rng(4), 4, 3)
    top = min(np.iinfo(dtype).max, 2**31 - 1)
    labels = np.array([top, top, top - 1, top - 1], dtype)
    expected = run(lambda x: ap_loss(x, np.array([0, 0, 1, 1])), x)
    np.testing.assert_array_equal(run(lambda x: ap_loss(x, labels), x), expected)


@on_tensorflow
@pytest.mark.parametrize("with_database", [False, True])
def test_graph_holds_nothing_of_size_b_b_and_no_python(with_database, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(blocks, "MAX_KEPT", 1)  # of a fixed size, small beside B x B
    size, block_size, num_bins = 120, 8, 20

    @tf.function(autograph=False)
    def function(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            database = (x, labels) if with_database else ()
            values = ap_loss(
                x, labels, *database, num_bins=num_bins, block_size=block_size
            )
            value = tf.reduce_mean(values)
        return value, tape.gradient(value, x)

    graph = function.get_concrete_function(
        tf.TensorSpec([size], "int64"), tf.TensorSpec([size, 4])
    ).graph.as_graph_def(add_shapes=True)
    bodies = [list(function.node_def) for function in graph.library.function]
    nodes = sum(bodies, list(graph.node))
    types = {node.op for node in nodes}
    assert {"While", "StatelessWhile"} & types
    assert "UnsortedSegmentSum" in types
    assert not [name for name in types if "Py" in name or name == "Host"]
    shapes = [s for node in nodes for s in node.attr["_output_shapes"].list.shape]
    sizes = [np.prod([dim.size for dim in shape.dim]) for shape in shapes]
    assert len(sizes) > 200
    table = 2 * size * (2 * num_bins + 3)  # the sums of all intervals, twice
    assert max(sizes) <= table < size**2


@slow_on_jax
@each_mode_slowly
@pytest.mark.parametrize("num_bins", [20, 200])  # intervals in bytes, and in more
def test_intervals_that_are_kept_are_those_made_again(mode, num_bins, monkeypatch):
    rng = np.random.default_rng(6)
    x, labels = unit(rng, 40, 6), rng.integers(-1, 8, 40)

    def gradient(max_kept):
        monkeypatch.setattr(blocks, "MAX_KEPT", max_kept)

        def loss(x):
            x = normalize(x)
            settings = {"num_bins": num_bins, "block_size": 5}
            own = ap_loss(x, labels, **settings)
            return keras.ops.sum(own + ap_loss(x, labels, x, labels, **settings))

        return value_and_gradients(loss, x, mode=mode)[1][0]

    kept = gradient(2**26)
    for some in (1, 5 * 25 * 3):
        np.testing.assert_allclose(gradient(some), kept, atol=TOLERANCE)


WAYS = [{"jit_compile": False}]
if BACKEND == "tensorflow":
    WAYS += [
        pytest.param(way, marks=pytest.mark.slow) for way in ({"run_eagerly": True}, {})
    ]


@slow_on_jax
@pytest.mark.parametrize("arguments", WAYS)
def test_trains_in_fit_with_a_rest_of_another_size(arguments):
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(90, 12)).astype("float32"), np.arange(90) // 6
    x += rng.normal(size=(15, 12)).astype("float32")[labels]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(8), keras.layers.UnitNormalization()]
    )
    optimizer = keras.optimizers.Adam(0.03)
    model.compile(optimizer, APLoss(block_size=16), **arguments)
    history = model.fit(
        x, labels, batch_size=36, epochs=12, shuffle=False, verbose=0
    ).history["loss"]
    assert history[-1] < 0.8 * history[0]


@pytest.mark.slow
@on_tensorflow
def test_model_fit_on_16384_images_takes_less_than_their_similarities(tmp_path):
    script = pathlib.Path(__file__).parents[1] / "benchmarks" / "bench_loss.py"
    rows = tmp_path / "rows.json"
    command = [sys.executable, script, "--fit", "--repeats", "1", "--json", rows]
    subprocess.run(command, check=True, capture_output=True)
    compiled = json.loads(rows.read_text())["rows"][0]
    assert compiled["mode"] == "XLA"
    assert 0.8 < compiled["loss"] < 1
    assert compiled["added"] < 16384**2 * 4 / 2**20
