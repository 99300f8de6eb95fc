"""A batch in chunks: a partition of its rows, whether or not its size is known."""

import keras
import numpy as np
import pytest
from gradients import BACKEND, MANY
from hypothesis import given, settings, strategies as st
from keras import ops, tree

from keras_aploss.training.chunks import Chunks, loop, pull_back

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="of JAX")


def all_chunks(chunks, x):
    """Every chunk of `x`, taken as loops take it: long ones first."""
    return [chunks.take(x, c, c < chunks.num_long) for c in range(chunks.num)]


def back_in_order(x, num_chunks, function=lambda part: part):
    """`function` of each chunk of `x`, run and joined as an embedding is."""
    chunks = Chunks.of(x, num_chunks)

    def put(c, is_long, buffer):
        return chunks.put(buffer, function(chunks.take(x, c, is_long)), c)

    return chunks.join(chunks.run(put, chunks.buffer(function(x))))


@settings(deadline=None, max_examples=MANY // 2)
@given(size=st.integers(1, 20), num_chunks=st.integers(1, 25))
def test_chunks_are_every_nth_row_and_partition_the_batch(size, num_chunks):
    numbers = np.arange(size, dtype="int32")
    x = {"rows": ops.convert_to_tensor(numbers)}
    x["pairs"] = [ops.convert_to_tensor(np.stack([numbers, -numbers], 1))]
    chunks = Chunks.of(x, num_chunks)
    taken = all_chunks(chunks, x)
    n = min(num_chunks, size)
    assert len(taken) == n
    rows = [ops.convert_to_numpy(chunk["rows"]) for chunk in taken]
    for c, chunk in enumerate(taken):
        tree.assert_same_structure(chunk, x)
        np.testing.assert_array_equal(rows[c], numbers[c::n])
        pairs = ops.convert_to_numpy(chunk["pairs"][0])
        np.testing.assert_array_equal(pairs, np.stack([rows[c], -rows[c]], 1))
    lengths = [len(part) for part in rows]
    assert max(lengths) - min(lengths) <= 1
    assert sorted(np.concatenate(rows)) == list(numbers)
    assert chunks.are_even == (size % n == 0)
    fractions = [
        float(chunks.fraction(len(part) > size // n, "float32")) for part in rows
    ]
    np.testing.assert_allclose(fractions, np.array(lengths) / size, rtol=1e-6)


@settings(deadline=None, max_examples=MANY // 2)
@given(size=st.integers(1, 20), num_chunks=st.integers(1, 25))
def test_chunks_that_are_put_come_back_in_order(size, num_chunks):
    x = np.random.default_rng(0).normal(size=(size, 2, 3)).astype("float32")
    chunks = Chunks.of(x, num_chunks)
    buffer = chunks.buffer(ops.convert_to_tensor(x))
    for c, chunk in enumerate(all_chunks(chunks, ops.convert_to_tensor(x))):
        buffer = chunks.put(buffer, chunk, c)
    np.testing.assert_array_equal(ops.convert_to_numpy(chunks.join(buffer)), x)


@on_tensorflow
def test_a_batch_of_unknown_size_is_divided_within_a_graph():
    import tensorflow as tf

    numbers = tf.TensorSpec([], "int32")

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), numbers])
    def doubled(x, num_chunks):
        return back_in_order(x, num_chunks, lambda part: 2 * part)

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), numbers, numbers])
    def taken(x, num_chunks, c):
        chunks = Chunks.of(x, num_chunks)
        assert not isinstance(chunks.size, int)

        def one(is_long):
            return chunks.take(x, c, is_long), chunks.fraction(is_long, "float32")

        return tf.cond(c < chunks.num_long, lambda: one(True), lambda: one(False))

    for size in (1, 2, 3, 7, 12, 20):
        x = np.random.default_rng(size).normal(size=(size, 3)).astype("float32")
        for num_chunks in (1, 2, 3, 5, 7, 25):
            result = doubled(x, num_chunks)
            np.testing.assert_array_equal(result, 2 * x, err_msg=f"{size} {num_chunks}")
            n = min(size, num_chunks)
            for c in range(n):
                chunk, fraction = taken(x, num_chunks, c)
                np.testing.assert_array_equal(chunk, x[c::n])
                assert float(fraction) == pytest.approx(len(x[c::n]) / size)


@on_tensorflow
def test_a_batch_of_unknown_size_is_divided_by_xla():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 3])], jit_compile=True)
    def doubled(x):
        return back_in_order(x, 4, lambda part: 2 * part)

    for size in (2, 7, 8):
        x = np.random.default_rng(size).normal(size=(size, 3)).astype("float32")
        np.testing.assert_array_equal(doubled(x), 2 * x)


@on_jax
@pytest.mark.parametrize(("size", "num_chunks"), [(1, 3), (7, 3), (12, 3), (2, 25)])
def test_a_batch_is_divided_within_jit(size, num_chunks):
    import jax

    x = np.random.default_rng(size).normal(size=(size, 3)).astype("float32")
    jitted = jax.jit(lambda x: back_in_order(x, num_chunks, lambda part: 2 * part))
    np.testing.assert_array_equal(jitted(x), 2 * x)


@pytest.mark.parametrize(("size", "num_chunks"), [(7, 3), (6, 3), (2, 5)])
def test_chunks_run_one_after_another_each_with_its_length(size, num_chunks):
    x = ops.convert_to_tensor(np.arange(size, dtype="int32"))
    chunks = Chunks.of(x, num_chunks)

    def body(c, is_long, carry):
        order, lengths, count = carry
        order = ops.slice_update(order, [count], ops.reshape(ops.cast(c, "int32"), [1]))
        length = ops.convert_to_tensor([chunks.short + is_long], "int32")
        return order, ops.slice_update(lengths, [count], length), count + 1

    empty = ops.zeros(chunks.num, "int32")
    count = ops.convert_to_tensor(0, "int32")
    order, lengths, count = chunks.run(body, (empty, empty, count))
    assert int(count) == chunks.num
    assert ops.convert_to_numpy(order).tolist() == list(range(chunks.num))
    expected = [len(range(c, size, chunks.num)) for c in range(chunks.num)]
    assert ops.convert_to_numpy(lengths).tolist() == expected


def test_a_loop_carries_nested_structures():
    carry = {"a": [ops.ones(2)], "b": (ops.zeros(()), ops.ones((2, 2)))}
    result = loop(1, 4, lambda i, c: tree.map_structure(lambda v: v + 1, c), carry)
    tree.assert_same_structure(result, carry)
    for before, after in zip(tree.flatten(carry), tree.flatten(result), strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(after), ops.convert_to_numpy(before) + 3
        )


def test_a_slope_is_pulled_back_to_all_weights_also_to_those_without_use():
    weights = [ops.convert_to_tensor(value) for value in ([1.0, 2.0], [3.0], [5.0])]

    def function(weights):
        a, b, _ = weights
        return a**2, ops.sum(a * b), "the state"

    upstream = ops.convert_to_tensor([10.0, 100.0]), ops.convert_to_tensor(7.0)
    gradients, state = pull_back(function, weights, upstream)
    assert state == "the state"
    expected = [[10 * 2 * 1 + 7 * 3, 100 * 2 * 2 + 7 * 3], [7 * (1 + 2)], [0]]
    for gradient, numbers in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(gradient), numbers)
