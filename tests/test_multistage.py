"""The gradient of a batch in chunks is that of the batch, to rounding."""

import keras
import numpy as np
import pytest
from encoders import (
    assert_same_step,
    at_once,
    batch_of,
    dense_encoder,
    in_one_tape,
    is_float,
    step,
)
from gradients import BACKEND, MODES, slow_on_jax
from keras import layers, ops

from keras_aploss import GeneralizedMeanPooling2D, ap_loss
from keras_aploss.training import embed_in_chunks

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
SLOW = pytest.mark.slow
# Tracing takes TensorFlow ten times as long as running, and XLA compiles for seconds:
# in the gate, a few cases are traced or compiled, and all others run at once.
AT_ONCE = [pytest.param(m, marks=[SLOW] * (m != "eager")) for m in MODES]


def cases(gate, slow):
    """Those of `gate` and `slow` cases whose first value is a mode of the backend."""
    return [case for case in gate if case[0] in MODES] + [
        pytest.param(*case, marks=SLOW) for case in slow if case[0] in MODES
    ]


def chunked(num_chunks, **arguments):
    return lambda encoder, x: embed_in_chunks(encoder, x, num_chunks, **arguments)


def mean_ap_loss(labels):
    """A loss of all embeddings at once, and of what the encoder added."""
    return lambda x, added: (
        ops.mean(ap_loss(x, labels)) + 0.3 * ops.cast(added, x.dtype)
    )


def mean_squared_error(targets):
    return lambda x, added: ops.mean((x - targets) ** 2) + 0.3 * added


def seed_of(encoder):
    """The state of dropout's random numbers."""
    states = [v for v in encoder.non_trainable_variables if not is_float(v)]
    assert states
    return [ops.convert_to_numpy(state) for state in states]


@pytest.mark.parametrize(
    ("mode", "num_chunks"),
    cases(
        [*[("eager", n) for n in (1, 3, 5, 12, 40)], ("graph", 5), ("xla", 5)],
        [("graph", 12), ("xla", 1), ("xla", 12)],
    ),
)
def test_gradient_equals_that_of_training_at_once(mode, num_chunks):
    encoder = dense_encoder()
    x, labels = batch_of(12, 6)
    targets = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")
    for loss in (mean_ap_loss(labels), mean_squared_error(targets)):
        expected = step(at_once, encoder, x, loss)
        assert min(np.abs(g).max() for g in expected["gradients"]) > 1e-3
        result = step(chunked(num_chunks), encoder, x, loss, mode)
        assert_same_step(result, expected)


@on_tensorflow
@pytest.mark.parametrize(
    ("mode", "num_chunks"), cases([("eager", 5)], [("graph", 4), ("xla", 5)])
)
def test_gradient_is_exact_in_float64(mode, num_chunks):
    encoder = dense_encoder(dtype="float64")
    x, labels = batch_of(12, 6, dtype="float64")
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    result = step(chunked(num_chunks), encoder, x, mean_ap_loss(labels), mode)
    assert result["embeddings"].dtype == "float64"
    del expected["added"], result["added"]  # of another dtype, and 0
    assert_same_step(result, expected, rtol=1e-10)


@pytest.mark.parametrize("mode", AT_ONCE)
def test_gradient_of_convolutions_equals_that_of_training_at_once(mode):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((5, 5, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            GeneralizedMeanPooling2D(),
            layers.Dense(4),
            layers.UnitNormalization(),
        ]
    )
    x, labels = batch_of(11, 5, 5, 3)
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    result = step(chunked(3), encoder, x, mean_ap_loss(labels), mode)
    assert_same_step(result, expected)


def random_images():
    return [
        keras.Input((4, 4, 3)),
        layers.RandomFlip(seed=3),
        layers.GaussianNoise(0.3, seed=4),
        layers.Flatten(),
    ]


RANDOM = {
    "dropout": lambda: [keras.Input((6,)), layers.Dense(8), layers.Dropout(0.4)],
    "noise": lambda: [keras.Input((6,)), layers.GaussianNoise(1.0)],
    "images": random_images,
}


def random_encoder(kind):
    keras.utils.set_random_seed(5)
    last = [layers.Dense(4), layers.UnitNormalization()]
    return keras.Sequential([*RANDOM[kind](), *last])


@pytest.mark.parametrize(
    ("mode", "kind", "num_chunks"),
    cases(
        [
            *[("eager", kind, 4) for kind in RANDOM],
            ("graph", "dropout", 3),
            *[("xla", "dropout", 3)] * (BACKEND == "jax"),
        ],
        [
            *[("graph", kind, 4) for kind in RANDOM],
            *[("xla", kind, 4) for kind in RANDOM if BACKEND == "jax"],
            *[("xla", "dropout", 4)] * (BACKEND == "tensorflow"),
        ],
    ),
)
def test_both_passes_draw_the_same_random_numbers(mode, kind, num_chunks):
    encoder = random_encoder(kind)
    x, labels = batch_of(11, *encoder.input_shape[1:])
    loss = mean_ap_loss(labels)
    # XLA has a random generator of its own.
    oracle_mode = "xla" if mode == "xla" else MODES[0]
    expected = step(in_one_tape(num_chunks), encoder, x, loss, oracle_mode)
    result = step(chunked(num_chunks), encoder, x, loss, mode)
    assert_same_step(result, expected)
    for before, after in zip(seed_of(encoder), result["state"], strict=True):
        assert not np.array_equal(before, after)


@slow_on_jax
@pytest.mark.parametrize("kind", RANDOM)
def test_the_gradient_of_other_random_numbers_is_far_away(kind):
    encoder = random_encoder(kind)
    x, labels = batch_of(11, *encoder.input_shape[1:])
    loss = mean_ap_loss(labels)
    first = step(in_one_tape(3), encoder, x, loss)
    variables = encoder.non_trainable_variables
    for variable, value in zip(variables, first["state"], strict=True):
        variable.assign(value)
    second = step(in_one_tape(3), encoder, x, loss)
    with pytest.raises(AssertionError, match="gradients"):
        assert_same_step(
            {"gradients": second["gradients"]},
            {"gradients": first["gradients"]},
            rtol=0.05,
        )


@slow_on_jax
def test_each_chunk_draws_random_numbers_of_its_own():
    encoder = random_encoder("dropout")
    x = np.ones((6, 6), "float32")
    result = step(chunked(3), encoder, x, lambda y, _: ops.sum(y))["embeddings"]
    assert len(np.unique(result.round(4), axis=0)) == 6


def normalized_encoder(momentum=0.9):
    """Batch normalization of the input itself, with averages far from 0 and 1."""
    keras.utils.set_random_seed(6)
    normalization = layers.BatchNormalization(momentum=momentum)
    encoder = keras.Sequential(
        [keras.Input((6,)), normalization, layers.Dense(4), layers.UnitNormalization()]
    )
    rng = np.random.default_rng(2)
    normalization.moving_mean.assign(rng.normal(size=6))
    normalization.moving_variance.assign(rng.uniform(1, 3, 6))
    return encoder, normalization


@pytest.mark.parametrize("mode", AT_ONCE)
def test_frozen_batch_normalization_trains_as_at_once_and_keeps_every_bit(mode):
    encoder, normalization = normalized_encoder()
    normalization.trainable = False
    x, labels = batch_of(11, 6)
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    result = step(chunked(4), encoder, x, mean_ap_loss(labels), mode)
    assert_same_step(result, expected)
    assert len(result["state"]) == 4
    variables = encoder.non_trainable_variables
    for variable, value in zip(variables, result["state"], strict=True):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable.value))


@pytest.mark.parametrize(
    ("mode", "num_chunks"),
    cases(
        [("eager", 3), ("eager", 4), *[("xla", 3)] * (BACKEND == "jax")],
        [("graph", 4), ("xla", 4)],
    ),
)
def test_batch_normalization_takes_the_statistics_of_each_chunk(mode, num_chunks):
    encoder, normalization = normalized_encoder()
    x, labels = batch_of(12 if num_chunks == 3 else 11, 6)
    old_mean = ops.convert_to_numpy(normalization.moving_mean)
    old_variance = ops.convert_to_numpy(normalization.moving_variance)
    expected = step(in_one_tape(num_chunks), encoder, x, mean_ap_loss(labels))
    result = step(chunked(num_chunks), encoder, x, mean_ap_loss(labels), mode)
    assert_same_step(result, expected)
    chunks = [x[c::num_chunks] for c in range(num_chunks)]
    means = [0.9 * old_mean + 0.1 * part.mean(0) for part in chunks]
    variances = [0.9 * old_variance + 0.1 * part.var(0) for part in chunks]
    sizes = [len(part) for part in chunks]
    mean, variance = result["state"]
    np.testing.assert_allclose(
        mean, np.average(means, axis=0, weights=sizes), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        variance, np.average(variances, axis=0, weights=sizes), rtol=1e-5
    )


@slow_on_jax
def test_batch_normalization_beside_random_numbers():
    encoder = dense_encoder(layers.BatchNormalization(), layers.GaussianNoise(1.0))
    x, labels = batch_of(11, 6)
    expected = step(in_one_tape(3), encoder, x, mean_ap_loss(labels))
    assert [is_float(value) for value in expected["state"]].count(True) == 2
    result = step(chunked(3), encoder, x, mean_ap_loss(labels))
    assert_same_step(result, expected)


@slow_on_jax
def test_in_inference_nothing_is_drawn_and_nothing_moves():
    encoder = dense_encoder(layers.BatchNormalization(), layers.GaussianNoise(1.0))
    x, labels = batch_of(11, 6)
    embed = chunked(3, training=False)
    result = step(embed, encoder, x, mean_ap_loss(labels))
    expected = encoder.predict(x, verbose=0)
    np.testing.assert_allclose(result["embeddings"], expected, atol=1e-6)
    variables = encoder.non_trainable_variables
    for variable, value in zip(variables, result["state"], strict=True):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable.value))


def _sums_over_the_batch():
    layer = layers.Activation("linear", activity_regularizer=keras.regularizers.L2(1.0))
    layer(ops.ones((2, 1)))
    return float(layer.losses[0]) > 1.5


class MeanOfSquares(layers.Layer):
    """Adds a loss that is a mean over the batch."""

    def call(self, inputs):
        self.add_loss(ops.mean(inputs**2))
        return inputs


@pytest.mark.parametrize("mode", AT_ONCE)
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(
            lambda: layers.Dense(5, activity_regularizer=keras.regularizers.L2(0.7)),
            marks=pytest.mark.skipif(
                _sums_over_the_batch(), reason="before Keras 3.14, sums over a batch"
            ),
        ),
        MeanOfSquares,
    ],
)
def test_added_losses_are_averaged_over_the_batch(layer, mode):
    encoder = dense_encoder(layer())
    x, labels = batch_of(12, 6)
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    assert expected["added"] > 0.05
    without = step(at_once, encoder, x, lambda x, _: ops.mean(ap_loss(x, labels)))
    moved = np.abs(without["gradients"][0] - expected["gradients"][0]).max()
    assert moved > 1e-3
    result = step(chunked(5), encoder, x, mean_ap_loss(labels), mode)
    assert_same_step(result, expected)


def two_inputs(kind):
    keras.utils.set_random_seed(7)
    a, b = keras.Input((6,), name="a"), keras.Input((2, 3), name="b")
    y = layers.Concatenate()([layers.Dense(4)(a), layers.Flatten()(b)])
    y = layers.UnitNormalization()(layers.Dense(4)(y))
    return keras.Model({"a": a, "b": b} if kind is dict else [a, b], y)


@slow_on_jax
@pytest.mark.parametrize("kind", [dict, list])
def test_an_encoder_may_have_several_inputs(kind):
    encoder = two_inputs(kind)
    a, labels = batch_of(11, 6)
    b, _ = batch_of(11, 2, 3, seed=1)
    x = {"a": a, "b": b} if kind is dict else [a, b]
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    assert_same_step(step(chunked(3), encoder, x, mean_ap_loss(labels)), expected)


def test_an_encoder_with_two_outputs_is_refused():
    inputs = keras.Input((6,))
    outputs = [layers.Dense(4)(inputs), layers.Dense(2)(inputs)]
    encoder = keras.Model(inputs, outputs, name="siamese")
    with pytest.raises(ValueError, match="Received: 2 outputs of 'siamese"):
        embed_in_chunks(encoder, batch_of(6, 6)[0], 2)


@slow_on_jax
def test_frozen_weights_have_no_gradient_and_others_the_same():
    encoder = dense_encoder()
    encoder.layers[0].trainable = False
    x, labels = batch_of(11, 6)
    expected = step(at_once, encoder, x, mean_ap_loss(labels))
    result = step(chunked(3), encoder, x, mean_ap_loss(labels))
    assert len(result["gradients"]) == 2
    assert_same_step(result, expected)
    variables = encoder.non_trainable_variables
    for variable, value in zip(variables, result["state"], strict=True):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable.value))


@slow_on_jax
def test_gradients_of_half_precision_are_added_up_in_float32():
    # 4096 chunks, of each a gradient of 1: float16 ends at 2048 and bfloat16 at 256.
    for policy in ("mixed_float16", "mixed_bfloat16"):
        layer = layers.Dense(1, use_bias=False, dtype=policy)
        encoder = keras.Sequential([keras.Input((1,)), layer])
        mode = "graph" if BACKEND == "tensorflow" else "xla"
        x = np.ones((4096, 1), "float32")

        def loss(x, _):
            return ops.sum(ops.cast(x, "float32"))

        result = step(chunked(4096), encoder, x, loss, mode)
        assert result["embeddings"].dtype.name == policy.removeprefix("mixed_")
        assert result["gradients"][0].dtype == "float32"
        assert result["gradients"][0].item() == 4096


def graph_of(num_chunks, size):
    import tensorflow as tf

    encoder = dense_encoder(layers.Dropout(0.3))

    @tf.function(autograph=False)
    def function(x):
        with tf.GradientTape() as tape:
            embeddings, loss, state = embed_in_chunks(encoder, x, num_chunks)
            value = tf.reduce_mean(embeddings[:, 0]) + loss
        weights = [variable.value for variable in encoder.trainable_variables]
        return tape.gradient(value, weights), state

    spec = tf.TensorSpec([size, 6])
    graph = function.get_concrete_function(spec).graph.as_graph_def()
    bodies = [list(function.node_def) for function in graph.library.function]
    return sum(bodies, list(graph.node))


@on_tensorflow
@pytest.mark.parametrize("size", [80, None])
def test_the_graph_does_not_grow_with_the_number_of_chunks(size):
    few, many = graph_of(4, size), graph_of(40, size)
    assert len(few) == len(many) > 100
    loops = [node for node in few if node.op in ("While", "StatelessWhile")]
    assert len(loops) == (2 if size == 80 else 4)  # long chunks and short, two passes
    assert {node.attr["parallel_iterations"].i for node in loops} == {1}
