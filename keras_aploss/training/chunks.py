"""Divide a batch into chunks: sizes, rows, sequential loops and gradients.

Dimension key: ``B`` batch, ``n`` chunks, ``q = ⌊B / n⌋`` images of a chunk, one more in
the first ``B - q n`` chunks.
"""

from typing import Any, NamedTuple

import keras
from keras import ops, tree


class Chunks(NamedTuple):
    """A batch of `size` images in `num` chunks; the first `size % num` have one more.

    Sizes are integers where they are known, else scalar tensors. Then each loop is
    traced for both lengths of a chunk, and one of the two may run zero times.
    """

    size: Any
    num: Any

    @classmethod
    def of(cls, x, num_chunks):
        """Divide the rows of `x` into `num_chunks` chunks, or one per row if fewer."""
        size = ops.shape(tree.flatten(x)[0])[0]
        if isinstance(size, int):
            return cls(size, max(1, min(num_chunks, size)))
        # A device may get no image at all of the last batch.
        return cls(size, ops.maximum(1, ops.minimum(num_chunks, size)))

    @property
    def short(self):
        return self.size // self.num

    @property
    def num_long(self):
        return self.size % self.num

    @property
    def are_even(self):
        """True if all chunks are known to have the same length."""
        return isinstance(self.num_long, int) and self.num_long == 0

    def fraction(self, is_long, dtype):
        """Images of a chunk divided by images of the batch: its weight in a mean."""
        size = ops.cast(self.short + is_long, dtype)
        return ops.divide_no_nan(size, ops.cast(self.size, dtype))

    def take(self, x, c, is_long):
        """Rows `c`, `c + n`, `c + 2n`... of each tensor in `x`: those of chunk `c`."""
        return tree.map_structure(lambda part: self._take(part, c, is_long), x)

    def _take(self, x, c, is_long):
        rest = ops.shape(x)[1:]
        even = x if self.are_even else x[: self.short * self.num]
        even = ops.reshape(even, (self.short, self.num, *rest))
        zeros = (0,) * len(rest)
        chunk = ops.slice(even, (0, c, *zeros), (self.short, 1, *rest))
        chunk = ops.reshape(chunk, (self.short, *rest))
        if not is_long:
            return chunk
        last = ops.slice(x, (self.short * self.num + c, *zeros), (1, *rest))
        return ops.concatenate([chunk, last])

    def buffer(self, output):
        """Zeros for all outputs: `[k, c]` is for that of image `k` of chunk `c`."""
        rows = self.short if self.are_even else self.short + 1
        return ops.zeros((rows, self.num, *output.shape[1:]), output.dtype)

    def put(self, buffer, outputs, c):
        """Return the buffer with the outputs of chunk `c` written to it."""
        zeros = (0,) * len(outputs.shape[1:])
        return ops.slice_update(buffer, (0, c, *zeros), ops.expand_dims(outputs, 1))

    def join(self, buffer):
        """Return the outputs `(B, ...)` in the order of the batch."""
        return ops.reshape(buffer, (-1, *buffer.shape[2:]))[: self.size]

    def run(self, body, carry):
        """Run `body(c, is_long, carry)` for all chunks, strictly one after another."""
        if not self.are_even:
            carry = loop(0, self.num_long, lambda c, now: body(c, True, now), carry)
        return loop(self.num_long, self.num, lambda c, now: body(c, False, now), carry)


def loop(start, stop, body, carry):
    """`ops.fori_loop`, strictly sequential on TensorFlow as well.

    There, `fori_loop` runs up to ten iterations at once, in the memory of ten chunks.
    """
    if keras.backend.backend() == "jax":
        return ops.fori_loop(start, stop, body, carry)
    import tensorflow as tf

    flat = [ops.convert_to_tensor(value) for value in tree.flatten(carry)]

    def step(i, *flat_carry):
        after = tree.flatten(body(i, tree.pack_sequence_as(carry, flat_carry)))
        for old, new in zip(flat_carry, after, strict=True):
            new.set_shape(old.shape)  # which slices of unknown size forget
        return i + 1, *after

    after = tf.while_loop(
        lambda i, *_: i < stop,
        step,
        (tf.convert_to_tensor(start, "int32"), *flat),
        parallel_iterations=1,
    )
    return tree.pack_sequence_as(carry, after[1:])


def pull_back(function, weights, upstream):
    """Vector-Jacobian product of `function` at `weights`.

    Args:
        function: from weights to (embeddings, added loss, state).
        weights: list of tensors.
        upstream: gradients of the training loss to embeddings and added loss.

    Returns:
        The gradients of the training loss to the weights, and the state.
    """
    if keras.backend.backend() == "jax":
        import jax

        def outputs(weights):
            *values, state = function(weights)
            return tuple(values), state

        _, pull, state = jax.vjp(outputs, weights, has_aux=True)
        return pull(upstream)[0], state
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        *values, state = function(weights)
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(values, weights, upstream, unconnected_gradients=zero)
    return [tf.convert_to_tensor(gradient) for gradient in gradients], state
