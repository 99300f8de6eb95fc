"""Checks of the inputs of losses: integer labels, unit length, weights of queries.

Wrong shapes and settings always raise; wrong values raise in eager mode. While a graph
is traced values cannot be read, and no operation that works on all backends can raise
later: there the losses turn to NaN. On PyTorch, too: to read a value would stop the GPU
at every step, and Keras builds a model by running its loss on made-up values.

Dimension key: ``B`` batch, ``D`` units of an embedding.
"""

import keras
import numpy as np
from keras import ops

from keras_aploss.losses.histogram import Bins

# Of a list: beyond it counts would overflow (see `histogram`).
MAX_IMAGES = 2**21 - 1
# Up to here a type tells whole numbers apart.
WHOLE_NUMBERS = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}
# Squared lengths this near to 1 pass as unit length: bfloat16 embeddings do.
UNIT_LENGTH_TOLERANCE = 3e-2


def check_bins(num_bins, similarity_range):
    """Return the settings of the histogram as `Bins`; raise if they make none.

    >>> check_bins(20, (-1, 1))
    Bins(num_bins=20, low=-1.0, high=1.0)
    """
    if not isinstance(num_bins, int | np.integer) or num_bins < 2:
        raise ValueError(
            f"Expected an integer `num_bins` >= 2. Received: num_bins={num_bins!r}."
        )
    limits = tuple(similarity_range)
    if len(limits) != 2 or not -np.inf < limits[0] < limits[1] < np.inf:
        raise ValueError(
            "Expected `similarity_range` to be (low, high), finite, low < high. "
            f"Received: similarity_range={similarity_range!r}."
        )
    return Bins(int(num_bins), *(float(limit) for limit in limits))


def check_block_size(block_size):
    """Raise unless `block_size` is a positive integer or None."""
    is_integer = isinstance(block_size, int | np.integer)
    if block_size is not None and not (is_integer and block_size > 0):
        raise ValueError(
            "Expected block_size to be a positive integer (queries at once), or None "
            f"to have it chosen. Received: block_size={block_size!r}."
        )


def check_dtype(dtype):
    """Return the float type in which a loss computes; raise if it has 16 bits."""
    if dtype is None:
        return "float64" if keras.backend.floatx() == "float64" else "float32"
    compute_dtype = keras.dtype_policies.get(dtype).compute_dtype
    if compute_dtype not in ("float32", "float64"):
        raise ValueError(
            "Expected the dtype of a loss to be float32 or float64: 16 bits cannot "
            f"hold counts of images. Received: dtype={dtype!r}. Leave `dtype` out: "
            "embeddings of a mixed-precision model are cast to float32."
        )
    return compute_dtype


def check_labels(labels, name="y_true"):
    """Return `labels` as an integer tensor `(B,)`, and whether all were whole numbers.

    Floats pass if they are whole numbers that their type tells apart. (Keras makes such
    labels itself: to build a model for several devices, it averages a batch over them.)
    What no int64 holds counts as not whole: cast, it would be another class.

    Raises:
        ValueError: if the shape is not `(B,)` or `(B, 1)`, they are no numbers, the
            backend has no type for them or, where values can be read, they are not
            whole.

    >>> labels, are_whole = check_labels([[3], [3], [-1]])
    >>> labels.shape == (3,), bool(are_whole)
    (True, True)
    """
    _check_width(labels, name)
    try:
        labels = ops.convert_to_tensor(labels)
    except (TypeError, ValueError) as error:  # names, say, on JAX and PyTorch
        raise ValueError(
            f"Expected integer class labels in `{name}`. Received: "
            f"{type(labels).__name__} that is no tensor: {error}"
        ) from error
    shape = tuple(labels.shape)
    if 0 in shape:
        raise ValueError(
            f"Expected at least one image. Received: {name}.shape={shape}."
        )
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(
            f"Expected `{name}` to hold one class label per image, shape (B,) or "
            f"(B, 1). Received: {name}.shape={shape}. One-hot labels: give "
            f"`argmax({name}, axis=-1)`."
        )
    dtype = keras.backend.standardize_dtype(labels.dtype)
    are_whole = np.array("int" in dtype or dtype == "bool")
    if dtype in WHOLE_NUMBERS:
        are_whole = ops.all(
            ops.logical_and(
                ops.equal(labels, ops.floor(labels)),  # NaN: False
                ops.abs(labels) <= WHOLE_NUMBERS[dtype],
            )
        )
    values = values_if_eager(are_whole)
    if values is not None and not values.all():
        raise ValueError(
            f"Expected integer class labels in `{name}`. Received: dtype={dtype}. "
            f"Number the classes, or cast them with `{name}.astype('int64')`."
        )
    wide = "64" in dtype or dtype == "uint32"
    labels = ops.reshape(ops.cast(labels, "int64" if wide else "int32"), (-1,))  # (B,)
    if dtype.startswith("uint"):  # the large ones are negative now
        is_held = ops.all(labels >= 0)
        if values_if_eager(is_held) == np.array(False):
            raise _beyond(name, dtype, "int64")
        are_whole = ops.logical_and(are_whole, is_held)
    return labels, are_whole


def _check_width(labels, name):
    """Raise if the backend would cut off labels that are on the host.

    JAX has 32 bits unless it is told at its start.
    """
    if not isinstance(labels, np.ndarray | list | tuple):
        return
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iuf" or labels.dtype.itemsize < 8:
        return
    held = ops.convert_to_tensor(np.zeros(1, labels.dtype)).dtype
    held = keras.backend.standardize_dtype(held)
    if held == labels.dtype:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        is_same = (labels == labels.astype(held)) | (labels != labels)  # or NaN
    if not is_same.all():
        raise _beyond(name, labels.dtype, held)


def _beyond(name, dtype, held_dtype):
    return ValueError(
        f"Expected labels in `{name}` that {held_dtype} holds. Received: dtype={dtype} "
        "with others, which would become distractors or fall into one class. Number "
        f"the classes: `np.unique({name}, return_inverse=True)[1]`."
    )


def check_similarities(similarity, relevance):
    """Return similarities and 0/1 relevance as float tensors of one type `(Q, N)`.

    Raises:
        ValueError: if the shapes are not equal and of rank 2.
    """
    similarity = as_floats(similarity)
    relevance = ops.convert_to_tensor(relevance)
    shapes = tuple(similarity.shape), tuple(relevance.shape)
    if len(shapes[0]) != 2 or not same_shape(*shapes):
        raise ValueError(
            "Expected `similarity` and `relevance` of one shape (Q, N). Received: "
            f"similarity.shape={shapes[0]}, relevance.shape={shapes[1]}. "
            "Give a single query as a matrix of one row."
        )
    if keras.backend.standardize_dtype(relevance.dtype) != "bool":
        relevance = relevance > 0
    return similarity, ops.cast(relevance, similarity.dtype)


def check_batch(y_true, y_pred):
    """Return labels `(b,)`, float embeddings `(b, D)` and whether both are valid.

    Valid are whole numbers, and embeddings of unit length or zeros.

    Raises:
        ValueError: see `check_labels` and `check_embeddings`.
    """
    labels, are_whole = check_labels(y_true)
    embeddings = as_floats(y_pred)
    are_unit = check_embeddings(embeddings, labels, allow_zeros=True)
    return labels, embeddings, ops.logical_and(are_whole, are_unit)


def check_embeddings(
    embeddings, labels, name="y_pred", units=None, *, allow_zeros=False
):
    """Return whether all embeddings have unit length, as a boolean tensor.

    Args:
        embeddings: float tensor, to be `(B, D)`.
        labels: integer tensor `(B,)`.
        name: what the message calls them.
        units: `D` if it is known, as for the embeddings of a database.
        allow_zeros: let embeddings of zeros pass.

    Raises:
        ValueError: if the shape does not fit the labels and units or, where values can
            be read, an embedding is not finite or not of unit length.
    """
    _check_shape(embeddings, labels, name, units)
    squared_length = ops.sum(ops.square(embeddings), axis=1)  # (B,)
    is_unit = ops.abs(squared_length - 1.0) < UNIT_LENGTH_TOLERANCE  # NaN: False
    if allow_zeros:
        is_unit = ops.logical_or(is_unit, squared_length <= 0.0)
    values = values_if_eager(is_unit)
    if values is not None and not values.all():
        bad = int(np.argmin(values))
        # On JAX the length itself may be under differentiation, and not to be read.
        squared = values_if_eager(ops.stop_gradient(squared_length))
        length = "unknown" if squared is None else f"{np.sqrt(squared[bad]):.4g}"
        raise ValueError(
            f"Expected finite embeddings of unit length in `{name}`. Received: "
            f"{int((~values).sum())} of {len(values)} are not; the first is row {bad}, "
            f"of length {length}. End the model with `keras.layers.UnitNormalization()`"
            "; if it has one, NaN weights or a zero output are the cause."
        )
    return ops.all(is_unit)


def check_finite(embeddings, labels, name="y_pred"):
    """Return whether all embeddings are finite, and their squared distances, too.

    Raises:
        ValueError: if the shape does not fit the labels or, where values can be read,
            an embedding is not finite.
    """
    _check_shape(embeddings, labels, name)
    # |x - y|² ≤ 2 |x|² + 2 |y|²
    is_finite = ops.isfinite(4.0 * ops.sum(ops.square(embeddings), axis=1))  # (B,)
    values = values_if_eager(ops.stop_gradient(is_finite))
    if values is not None and not values.all():
        raise ValueError(
            f"Expected finite embeddings in `{name}`, whose squared distances do not "
            f"overflow. Received: {int((~values).sum())} of {len(values)} are not; the "
            f"first is row {int(np.argmin(values))}. NaN or huge weights are the "
            "cause: lower the learning rate, or end the model with "
            "`keras.layers.UnitNormalization()`."
        )
    return ops.all(is_finite)


def _check_shape(embeddings, labels, name, units=None):
    shape = tuple(embeddings.shape)
    if len(shape) != 2 or not same_shape(shape, (labels.shape[0], units)):
        raise ValueError(
            f"Expected `{name}` to hold one embedding per label, shape "
            f"({labels.shape[0]}, {units or 'D'}). Received: {name}.shape={shape}."
        )


def check_list_length(labels, least):
    """Raise if a list of that many images, where known, is too short or too long."""
    length = labels.shape[0]
    if length is not None and not least <= length <= MAX_IMAGES:
        raise ValueError(
            f"Expected lists of {least} to {MAX_IMAGES:,} images. Received: "
            f"{length:,}. A batch of one ranks nothing: drop such a rest of an epoch."
        )


def check_some_positives(has_positives):
    """Raise if no query has a positive, where that can be read."""
    values = values_if_eager(has_positives)
    if values is not None and not values.any():
        raise ValueError(
            "Expected a query with positives: another image of its class in its list. "
            f"Received: none in {len(values)}. Draw batches of several images per "
            "class, as `ClassBalancedSampler` does; negative labels mark distractors, "
            "which are no queries."
        )


def same_shape(shape, other):
    """True unless two static sizes differ; unknown sizes (`None`) fit everything."""
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other, strict=True)
    )


def values_if_eager(tensor):
    """The values as an array, or None while a graph is traced, and on PyTorch."""
    if keras.backend.backend() == "torch":
        return None
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


def as_floats(values):
    """The values as float64 if they are, and else as float32."""
    values = ops.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    return values if dtype == "float64" else ops.cast(values, "float32")
