"""Embeddings, values and gradients on the backend that Keras runs on."""

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
# How a function is run: at once, traced, or compiled by XLA. JAX compiles every loop
# anew when it runs it at once: that takes long, and differs in nothing but checks.
MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["xla"]}.get(
    BACKEND, ["eager"]
)

each_mode = pytest.mark.parametrize("mode", MODES)
# To trace a case takes TensorFlow ten times as long as to run it, and to compile it
# longer still: of most tests these cases are slow, and `each_mode` of one stands for
# them.
each_mode_slowly = pytest.mark.parametrize(
    "mode", [MODES[0], *(pytest.param(m, marks=pytest.mark.slow) for m in MODES[1:])]
)
# JAX compiles every operation anew for each shape that it meets: TensorFlow runs these.
slow_on_jax = pytest.mark.slow if BACKEND == "jax" else lambda test: test
ONLY_SLOW_ON_JAX = [pytest.mark.slow] if BACKEND == "jax" else []
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
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
    return differentiated(function, mode=mode)(*arrays)


def differentiated(function, num_constants=0, mode=MODES[0]):
    """From arrays to the value of a scalar `function` and its gradients.

    To all arrays but the last `num_constants`. Called again with arrays of the same
    shapes it is neither traced nor compiled again.
    """
    both = _value_and_gradients(function, num_constants, mode)

    def of_arrays(*arrays):
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        value, gradients = both(*tensors)
        to_array = keras.ops.convert_to_numpy
        return float(value), [np.array(to_array(gradient)) for gradient in gradients]

    return of_arrays


def _value_and_gradients(function, num_constants, mode):
    """`differentiated` of tensors, on the backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def both(*tensors):
            variables = tensors[: len(tensors) - num_constants]
            with tf.GradientTape() as tape:
                tape.watch(variables)
                value = function(*tensors)
            zero = tf.UnconnectedGradients.ZERO
            return value, tape.gradient(value, variables, unconnected_gradients=zero)

        return wrapped(both, mode)
    if BACKEND == "jax":
        import jax

        def both(*tensors):
            variables = tuple(range(len(tensors) - num_constants))
            return jax.value_and_grad(function, argnums=variables)(*tensors)

        return wrapped(both, mode)

    def both(*tensors):
        count = len(tensors) - num_constants
        variables = [tensor.requires_grad_() for tensor in tensors[:count]]
        value = function(*variables, *tensors[count:])
        value.backward()
        return value.detach(), [tensor.grad for tensor in variables]

    return both


def wrapped(function, mode):
    """`function` as it is run in a mode of `MODES`."""
    if mode == "eager":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=mode == "xla")
