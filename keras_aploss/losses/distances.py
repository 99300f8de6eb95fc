r"""Distances between the embeddings of a batch, as triplet losses compare them.

With ``s_ij = x_i · x_j``, and embeddings of any length:

    "squared-L2"    d_ij = |x_i|² + |x_j|² - 2 s_ij, at least 0
    "L2"            its square root
    "angular"       d_ij = 1 - s_ij / (|x_i| |x_j|), at least 0

On unit-length embeddings the three rank alike: ``|x_i - x_j|² = 2 - 2 s_ij``. They are
those of tensorflow-addons, whose triplet losses name them so. ("angular" is a cosine
distance, not an angle.)

**Equal embeddings.** The square root has no slope at 0, where equal embeddings are.
There the gradient is 0: nothing says in which direction to part them.

Dimension key: ``b`` queries out of a batch of ``B``, ``D`` units.
"""

import keras
from keras import ops

METRICS = ("L2", "squared-L2", "angular")
# As TensorFlow's `l2_normalize`: below this squared length a vector counts as zero.
LEAST_SQUARED_LENGTH = 1e-12


def check_distance_metric(distance_metric):
    """Return the metric; raise unless it has a name that is known, or is a function."""
    if callable(distance_metric) or distance_metric in METRICS:
        return distance_metric
    raise ValueError(
        f"Expected distance_metric to be one of {METRICS}, or a function from "
        "embeddings (B, D) to distances (B, B). Received: "
        f"distance_metric={distance_metric!r}."
    )


def distances(queries, batch, distance_metric, first=0):
    """The distance of each query to each image of the batch: `(b, B)`.

    Args:
        queries: float tensor `(b, D)`.
        batch: float tensor `(B, D)`, which holds the queries one after the other.
        distance_metric: one of `METRICS`, or a function from `(B, D)` to `(B, B)`.
        first: the place of the first query in the batch.

    Raises:
        ValueError: if a function gives another shape.
    """
    if callable(distance_metric):
        return _distances_of_function(queries, batch, distance_metric, first)
    if distance_metric == "angular":
        similarity = ops.matmul(_normalize(queries), ops.transpose(_normalize(batch)))
        return ops.maximum(1.0 - similarity, 0.0)
    lengths = ops.sum(ops.square(queries), axis=1)[:, None] + ops.sum(
        ops.square(batch), axis=1
    )
    squared = lengths - 2.0 * ops.matmul(queries, ops.transpose(batch))
    squared = ops.maximum(squared, 0.0)  # rounding can leave a little less
    squared = ops.where(is_self(queries, batch, first), 0.0, squared)
    if distance_metric == "squared-L2":
        return squared
    is_zero = squared <= 0.0
    return ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, squared)))


def is_self(queries, batch, first):
    """Mask of the images of the batch that are the query itself: booleans `(b, B)`."""
    place = ops.arange(ops.shape(queries)[0], dtype="int32") + first
    return place[:, None] == ops.arange(ops.shape(batch)[0], dtype="int32")[None, :]


def _distances_of_function(queries, batch, distance_metric, first):
    result = ops.cast(distance_metric(batch), batch.dtype)
    size = batch.shape[0]
    shape = tuple(result.shape)
    if len(shape) != 2 or any(size and one and one != size for one in shape):
        raise ValueError(
            "Expected distance_metric to give the distance of each embedding to each, "
            f"shape ({size}, {size}). Received: shape={shape} for embeddings of shape "
            f"{tuple(batch.shape)}."
        )
    count, length = ops.shape(queries)[0], ops.shape(batch)[0]
    return ops.slice(result, (first, 0), (count, length))


def _normalize(x):
    squared_length = ops.sum(ops.square(x), axis=1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squared_length, LEAST_SQUARED_LENGTH))


def serialize_distance_metric(distance_metric):
    """Return the entry of `get_config`: the name, or how Keras finds the function."""
    if isinstance(distance_metric, str):
        return distance_metric
    return keras.saving.serialize_keras_object(distance_metric)


def deserialize_distance_metric(config):
    """The name or function that `serialize_distance_metric` wrote."""
    if isinstance(config, dict):
        return keras.saving.deserialize_keras_object(config)
    return config
