"""Embeddings, values and gradients on the backend that Keras runs on."""

import keras
import numpy as np

BACKEND = keras.backend.backend()
# How a function is run: at once, traced, or compiled by XLA. JAX compiles every loop
# anew when it runs it at once: that takes long, and differs in nothing but checks.
MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["xla"]}.get(
    BACKEND, ["eager"]
)

# JAX has no float64 unless it is told at its start; Keras on PyTorch has none at all.
WIDEST = "float64" if BACKEND == "tensorflow" else "float32"
# Random examples of a property: JAX compiles for each shape, so it has fewer.
MANY = 40 if BACKEND == "tensorflow" else 6
# Whether a loss that is run at once can look at the values of its input.
READS_VALUES = BACKEND != "torch"
TOLERANCE = 1e-9 if WIDEST == "float64" else 1e-5


def unit(rng, *shape):
    """Random vectors of unit length."""
    vectors = rng.normal(size=shape)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype(WIDEST)


def normalize(x):
    """Gradients go through this: the similarity of an image to itself is at a kink."""
    return x / keras.ops.norm(x, axis=1, keepdims=True)


def run(function, *arrays, mode=MODES[0]):
    """`function` of tensors that hold `arrays`, as an array."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    return keras.ops.convert_to_numpy(wrapped(function, mode)(*tensors))


def value_and_gradients(function, *arrays, mode=MODES[0]):
    """The value of a scalar `function` and its gradient to each of `arrays`."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def both(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
            zero = tf.UnconnectedGradients.ZERO
            return value, tape.gradient(value, tensors, unconnected_gradients=zero)

        value, gradients = wrapped(both, mode)(*tensors)
    elif BACKEND == "jax":
        import jax

        both = jax.value_and_grad(function, argnums=tuple(range(len(tensors))))
        value, gradients = wrapped(both, mode)(*tensors)
    else:
        tensors = [tensor.requires_grad_() for tensor in tensors]
        value = function(*tensors)
        value.backward()
        value, gradients = value.detach(), [tensor.grad for tensor in tensors]
    to_array = keras.ops.convert_to_numpy
    return float(value), [np.array(to_array(gradient)) for gradient in gradients]


def wrapped(function, mode):
    """`function` as it is run in a mode of `MODES`."""
    if mode == "eager":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=mode == "xla")
