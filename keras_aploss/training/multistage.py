r"""Multistage backpropagation: batches whose activations do not fit in memory.

A listwise loss needs all embeddings of a batch at once, but its gradient with respect
to the weights is a sum over images: `∂L/∂w = Σ_i ∂L/∂e_i · ∂e_i/∂w`. So a batch of
any size is trained in three stages (Revaud et al. 2019, section 3.2):

1. embed it chunk by chunk, and keep the embeddings only;
2. compute the loss of all embeddings and its gradient `∂L/∂e`;
3. embed each chunk again, this time with its activations, and add up
   `∂L/∂e_i · ∂e_i/∂w`.

Two forward passes and one backward pass instead of one each: 4/3 of the time, in the
memory of one chunk. Here stages 1 and 3 are the value and the gradient of one function,
and Keras does the rest of a training step as it does for any model.

The gradient is exact only if both passes see the same network. So each chunk begins
stage 3 with the state in which it began stage 1: its dropout masks and augmentations
are the same.

Dimension key: ``B`` batch, ``n`` chunks, ``D`` units of an embedding.
"""

from typing import Any

import keras
from keras import ops, tree

from keras_aploss.training.chunks import Chunks, pull_back
from keras_aploss.training.reading import NUM_PASSES, ChunkReader


def embed_in_chunks(
    encoder: keras.Model,
    x: Any,
    num_chunks: int,
    *,
    training: bool = True,
    reader: ChunkReader | None = None,
) -> tuple[Any, Any, list]:
    """Embed a batch chunk by chunk; its gradient keeps the activations of one chunk.

    Chunk `c` holds images `c`, `c + n`, `c + 2n`...: in a batch that is sorted by
    class, each chunk sees nearly all classes, and of a batch that is divided over
    devices, each chunk takes equally many from each device.

    The *state* of the encoder is the values of its non-trainable variables. Integers
    (seeds of dropout) are passed on from chunk to chunk. Floats (moving averages of
    batch normalization) have the same value at the start of each chunk; afterwards,
    their value is the mean over the chunks, weighed by size: one update per batch.

    Args:
        encoder: a built model with one output. Only its trainable variables get a
            gradient, not `x`.
        x: images `(B, ...)`, or another input of the encoder; or references to
            images, which `reader` reads.
        num_chunks: `n`; more than `B` count as `B`.
        training: whether the encoder is called as in training.
        reader: reads the images of a chunk; None: `x` holds them.

    Returns:
        Embeddings `(B, ...)`; the losses of `add_loss`, averaged over the chunks,
        weighed by size, a scalar: that of the batch, where each is a mean over images
        (before Keras 3.14, an `activity_regularizer` is a sum over them); new values of
        the encoder's `non_trainable_variables`, for the caller to assign.

    Example:
    >>> import keras
    >>> from keras_aploss.training import embed_in_chunks
    >>> encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> embeddings, loss, state = embed_in_chunks(encoder, keras.ops.ones((5, 3)), 2)
    >>> embeddings.shape == (5, 2), float(loss), len(state)
    (True, 0.0, 0)
    """
    chunks = Chunks.of(x, num_chunks)
    # Copies: on TensorFlow a variable itself would be read when it is used, in stage 3
    # after the caller has assigned the new state.
    weights = [ops.copy(variable.value) for variable in encoder.trainable_variables]
    state = [ops.copy(variable.value) for variable in encoder.non_trainable_variables]
    output = _output_spec(encoder, x if reader is None else reader.spec)
    dtype = "float64" if output.dtype == "float64" else "float32"

    def images_of(c, is_long, pass_number):
        if reader is None:
            return chunks.take(x, c, is_long)
        # In inference, no second pass will ask for the first chunk again.
        pass_number = pass_number if training else NUM_PASSES
        return reader.read(x, chunks, c, is_long, pass_number)

    def encode(images, weights, state):
        return _encode(encoder, images, weights, state, training, dtype)

    @ops.custom_gradient
    def embed(*weights):
        def gradient(*args, upstream=None):
            slopes = args if upstream is None else upstream
            # JAX hands over all slopes as one argument, TensorFlow each.
            slopes = slopes[0] if isinstance(slopes[0], tuple | list) else slopes
            return tuple(
                _second_pass(encode, images_of, chunks, weights, state, slopes[:2])
            )

        carry = chunks.buffer(output), ops.zeros((), dtype)
        return _first_pass(encode, images_of, chunks, weights, state, carry), gradient

    # Not `state`: `gradient`, which runs later, closes over the old state.
    embeddings, loss, *new_state = embed(*weights)
    return embeddings, loss, new_state


def _first_pass(encode, images_of, chunks, weights, state, carry):
    """Embeddings `(B, ...)`, mean of the added losses, and the state afterwards."""

    def add(c, is_long, carry):
        buffer, loss, changes = carry
        now = [
            old if _is_float(old) else new
            for old, new in zip(state, changes, strict=True)
        ]
        embeddings, added, after = encode(images_of(c, is_long, 1), weights, now)
        changes = [
            change + chunks.fraction(is_long, old.dtype) * (new - old)
            if _is_float(old)
            else new
            for change, new, old in zip(changes, after, state, strict=True)
        ]
        loss = loss + chunks.fraction(is_long, loss.dtype) * added
        return chunks.put(buffer, embeddings, c), loss, changes

    # Floats: sums of changes, so that a value that does not change keeps every bit.
    changes = [ops.zeros_like(old) if _is_float(old) else old for old in state]
    buffer, loss, changes = chunks.run(add, (*carry, changes))
    after = [
        old + change if _is_float(old) else change
        for old, change in zip(state, changes, strict=True)
    ]
    return chunks.join(buffer), loss, *after


def _second_pass(encode, images_of, chunks, weights, state, slopes):
    """The gradient of each of the weights."""
    slope, slope_of_loss = slopes

    def add(c, is_long, carry):
        gradients, now = carry
        images = images_of(c, is_long, 2)
        fraction = chunks.fraction(is_long, slope_of_loss.dtype)
        pulled, after = pull_back(
            lambda weights: encode(images, weights, now),
            weights,
            (chunks.take(slope, c, is_long), fraction * slope_of_loss),
        )
        gradients = [a + b for a, b in zip(gradients, pulled, strict=True)]
        now = [
            old if _is_float(old) else new
            for old, new in zip(state, after, strict=True)
        ]
        return gradients, now

    return chunks.run(add, ([ops.zeros_like(w) for w in weights], state))[0]


def _encode(encoder, images, weights, state, training, dtype):
    """Embeddings, sum of the added losses and new state; nothing is assigned."""
    variables = [*encoder.trainable_variables, *encoder.non_trainable_variables]
    mapping = zip(variables, [*weights, *state], strict=True)
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        embeddings = encoder(images, training=training)
    losses = [ops.sum(ops.cast(loss, dtype)) for loss in scope.losses]
    after = [scope.get_current_value(v) for v in encoder.non_trainable_variables]
    return embeddings, sum(losses, ops.zeros((), dtype)), after


def _output_spec(encoder, x):
    """Shape and dtype of the embeddings."""
    spec = encoder.compute_output_spec(
        tree.map_structure(
            lambda part: keras.KerasTensor((None, *part.shape[1:]), part.dtype), x
        )
    )
    if not isinstance(spec, keras.KerasTensor):
        raise ValueError(
            "Expected an encoder with one output. Received: "
            f"{len(tree.flatten(spec))} outputs of {encoder.name!r}. Wrap the one that "
            "the loss takes: `keras.Model(model.inputs, model.outputs[0])`."
        )
    return spec


def _is_float(value):
    return "float" in keras.backend.standardize_dtype(value.dtype)
