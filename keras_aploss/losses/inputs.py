"""What the losses accept: integer labels, unit-length embeddings, weights of queries.

In eager mode wrong values raise. While a graph is traced values cannot be read, and no
operation that works on all backends can raise later: there the losses turn to NaN.

Dimension key: ``B`` batch, ``D`` units of an embedding.
"""

import keras
import numpy as np
from keras import ops

# Squared lengths this near to 1 pass as unit length: bfloat16 embeddings do.
UNIT_LENGTH_TOLERANCE = 3e-2


def check_labels(y_true):
    """Return `y_true` as an integer tensor `(B,)`; raise if it holds no class labels.

    >>> check_labels([[3], [3], [-1]]).shape == (3,)
    True
    """
    labels = ops.convert_to_tensor(y_true)
    shape = tuple(labels.shape)
    if 0 in shape:
        raise ValueError(
            f"Expected at least one image. Received: y_true.shape={shape}."
        )
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(
            "Expected `y_true` to hold one class label per image, shape (B,) or "
            f"(B, 1). Received: y_true.shape={shape}. One-hot labels: give "
            "`argmax(y_true, axis=-1)`."
        )
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if "int" not in dtype and dtype != "bool":
        values = values_if_eager(labels) if "float" in dtype else None
        if values is None or not np.all(
            np.isfinite(values) & (values == np.floor(values))
        ):
            raise ValueError(
                f"Expected integer class labels in `y_true`. Received: dtype={dtype}. "
                "Number the classes, or cast them with `y_true.astype('int64')`."
            )
    wide = "64" in dtype or dtype == "uint32"
    return ops.reshape(ops.cast(labels, "int64" if wide else "int32"), (-1,))  # (B,)


def check_embeddings(embeddings, labels):
    """Return whether all embeddings have unit length, as a boolean tensor.

    Raises:
        ValueError: if the shape does not fit the labels or, where values can be read,
            an embedding is not finite or not of unit length.
    """
    shape = tuple(embeddings.shape)
    if len(shape) != 2 or not same_shape(shape[:1], tuple(labels.shape)):
        raise ValueError(
            "Expected `y_pred` to hold one embedding per label, shape (B, D). "
            f"Received: y_pred.shape={shape} for {labels.shape[0]} labels."
        )
    squared_length = ops.sum(ops.square(embeddings), axis=1)  # (B,)
    is_unit = ops.abs(squared_length - 1.0) < UNIT_LENGTH_TOLERANCE  # NaN: False
    values = values_if_eager(is_unit)
    if values is not None and not values.all():
        bad = int(np.argmin(values))
        raise ValueError(
            "Expected finite embeddings of unit length in `y_pred`. Received: "
            f"{int((~values).sum())} of {len(values)} are not; the first is row {bad}, "
            f"of length {float(ops.sqrt(squared_length[bad])):.4g}. End the model with "
            "`keras.layers.UnitNormalization()`; if it has one, NaN weights or a zero "
            "output are the cause."
        )
    return ops.all(is_unit)


def same_shape(shape, other):
    """True unless two static sizes differ; unknown sizes (`None`) fit everything."""
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other, strict=True)
    )


def values_if_eager(tensor):
    """The values as an array, or None while a graph is being traced."""
    # Which error a symbolic tensor raises is the backend's choice: TensorFlow's is a
    # NotImplementedError, JAX's a TypeError, Keras's own a ValueError.
    try:
        return ops.convert_to_numpy(tensor)
    except (NotImplementedError, TypeError, AttributeError, ValueError):
        return None


def check_sample_weight(sample_weight, labels, dtype):
    """Return `sample_weight` as a tensor `(B,)`; raise if it does not fit."""
    weight = ops.convert_to_tensor(sample_weight, dtype=dtype)
    shape = tuple(weight.shape)
    flat = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
    if not same_shape(flat, tuple(labels.shape)):
        raise ValueError(
            f"Expected one weight per query, shape ({labels.shape[0]},). Received: "
            f"sample_weight.shape={shape}."
        )
    return ops.reshape(weight, (-1,))  # (B,)
