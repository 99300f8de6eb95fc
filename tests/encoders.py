"""Small encoders, and what a step takes from them: values, gradients and state."""

import keras
import numpy as np
from gradients import BACKEND, MODES
from keras import layers, ops


def dense_encoder(*between, dtype="float32", seed=0):
    """Vectors of 6 numbers, or what `between` layers take, to 4 of unit length."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,), dtype=dtype),
            layers.Dense(5, "tanh", dtype=dtype),
            *between,
            layers.Dense(4, dtype=dtype),
            layers.UnitNormalization(dtype=dtype),
        ]
    )


def batch_of(size, *shape, dtype="float32", seed=0):
    """Inputs `(size, *shape)`, and their labels: three of each."""
    x = np.random.default_rng(seed).normal(size=(size, *shape)).astype(dtype)
    return x, np.arange(size, dtype="int32") // 3


def at_once(encoder, x):
    """Embeddings, added losses and state of all images in one call of the encoder."""
    embeddings, state, losses = encoder.stateless_call(
        [variable.value for variable in encoder.trainable_variables],
        [variable.value for variable in encoder.non_trainable_variables],
        x,
        training=True,
        return_losses=True,
    )
    return embeddings, sum(losses, ops.zeros(())), state


def in_one_tape(num_chunks):
    """The definition: chunks `c::n`, one by one, and the activations of all kept."""

    def embed(encoder, x):
        weights = [variable.value for variable in encoder.trainable_variables]
        start = [variable.value for variable in encoder.non_trainable_variables]
        size = keras.tree.flatten(x)[0].shape[0]
        order = [np.arange(size)[c::num_chunks] for c in range(min(num_chunks, size))]
        now, parts, added, states = start, [], ops.zeros(()), []
        for c, rows in enumerate(order):
            chunk = keras.tree.map_structure(lambda part, c=c: part[c::num_chunks], x)
            embeddings, after, losses = encoder.stateless_call(
                weights, now, chunk, training=True, return_losses=True
            )
            parts.append(embeddings)
            states.append(after)
            added += sum(losses) * len(rows) / size
            now = [a if is_float(a) else b for a, b in zip(start, after, strict=True)]
        shares = [len(rows) / size for rows in order]
        means = [
            sum(map(_times, shares, values)) for values in zip(*states, strict=True)
        ]
        state = [a if is_float(a) else b for a, b in zip(means, now, strict=True)]
        back = np.argsort(np.concatenate(order))
        return ops.take(ops.concatenate(parts), back, axis=0), added, state

    return embed


def _times(share, value):
    return share * value if is_float(value) else value


def is_float(value):
    return "float" in keras.backend.standardize_dtype(value.dtype)


def step(embed, encoder, x, loss, mode=MODES[0]):
    """Arrays of a step: `value`, `gradients`, `embeddings`, `added` loss, `state`.

    Args:
        embed: function from encoder and inputs to embeddings, added loss and state.
        encoder: its weights and state are taken as they are, nothing is assigned.
        x: inputs, arrays.
        loss: function from embeddings and added loss to a scalar.
        mode: one of `MODES`.
    """
    trainable = encoder.trainable_variables
    others = encoder.non_trainable_variables

    def function(weights, state, x):
        values = zip([*trainable, *others], [*weights, *state], strict=True)
        with keras.StatelessScope(list(values)):
            embeddings, added, state = embed(encoder, x)
            return loss(embeddings, added), (embeddings, added, state)

    arguments = [
        [ops.convert_to_tensor(variable.value) for variable in trainable],
        [ops.convert_to_tensor(variable.value) for variable in others],
        keras.tree.map_structure(ops.convert_to_tensor, x),
    ]
    if BACKEND == "jax":
        import jax

        (value, others), gradients = jax.jit(
            jax.value_and_grad(function, has_aux=True)
        )(*arguments)
    else:
        import tensorflow as tf

        def both(weights, state, x):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                value, others = function(weights, state, x)
            zero = tf.UnconnectedGradients.ZERO
            return (value, others), tape.gradient(
                value, weights, unconnected_gradients=zero
            )

        if mode != "eager":
            both = tf.function(both, jit_compile=mode == "xla", autograph=False)
        (value, others), gradients = both(*arguments)
    names = ["value", "embeddings", "added", "state", "gradients"]
    result = dict(zip(names, [value, *others, gradients], strict=True))
    return keras.tree.map_structure(ops.convert_to_numpy, result)


def assert_same_step(result, expected, rtol=1e-5):
    """Gradients may differ by `rtol` of the largest, embeddings likewise, and so on."""
    for name, values in expected.items():
        arrays, values = keras.tree.flatten(result[name]), keras.tree.flatten(values)
        largest = [np.abs(v).max(initial=0) for v in values if is_float(v)]
        for i, (array, value) in enumerate(zip(arrays, values, strict=True)):
            assert array.dtype == value.dtype, name
            atol = rtol * max(largest) if is_float(value) else 0
            np.testing.assert_allclose(array, value, 0, atol, err_msg=f"{name} {i}")
