r"""The triplets that a loss chooses in a batch, and what they violate.

**Memory.** The semi-hard negatives of the k-th positives of all queries are looked up
at once, for one k after the other: ``O(B²)`` memory, where all triplets at once take
``O(B³)``, and ``O(B² K)`` time for ``K`` images of the largest class.

The gradient of the sum with respect to the distances is made on the way: 1 at each pair
of a query and a positive that is violated, -1 at the negative that it met.

Dimension key: ``b`` queries out of a batch of ``B``, ``D`` units, ``K`` images of a
class. On one device ``b = B``.
"""

import math

from keras import ops

from keras_aploss.losses import inputs, replicas
from keras_aploss.losses.blocks import after
from keras_aploss.losses.distances import check_distance_metric, distances, is_self


def of_replica(terms, embeddings, ids, distance_metric):
    """`triplet_values` of this device's images in the batch of all devices: `(b,)`."""
    batch = replicas.gather(embeddings)  # (B, D)
    batch_ids = ops.cast(replicas.gather(ids), ids.dtype)  # (B,)
    inputs.check_list_length(batch_ids, least=2)
    first = replicas.first_row(ids)
    return triplet_values(
        terms, embeddings, ids, batch, batch_ids, distance_metric, first
    )


def triplet_values(terms, queries, ids, batch, batch_ids, distance_metric, first=0):
    """The losses of queries, such that the mean over the batch is the loss: `(b,)`.

    Args:
        terms: `semi_hard` or `hard`, with its settings.
        queries: float tensor `(b, D)`.
        ids: `class_ids` of the queries `(b,)`.
        batch: float tensor `(B, D)`, which holds the queries from `first` on.
        batch_ids: `class_ids` of the batch `(B,)`.
        distance_metric: see `distances`.
        first: the place of the first query in the batch.
    """
    check_distance_metric(distance_metric)
    are_finite = inputs.check_finite(batch, batch_ids)
    size = ops.shape(batch_ids)[0]
    sizes = _per_class(batch_ids)  # (B,)
    is_query = ops.logical_and(batch_ids >= 0, sizes < size)  # has a negative
    distance = distances(queries, batch, distance_metric, first)  # (b, B)
    if callable(distance_metric):  # else finite embeddings have finite distances
        are_finite = ops.logical_and(are_finite, ops.all(ops.isfinite(distance)))
    values, counts = terms(distance, ids, batch_ids, sizes, is_query, first)
    count = ops.sum(counts)
    _check_some_triplets(count > 0)
    scale = ops.divide_no_nan(
        ops.cast(size, values.dtype), ops.cast(count, values.dtype)
    )
    own = ops.slice(counts, (first,), (ops.shape(ids)[0],)) > 0
    return ops.where(are_finite, ops.where(own, scale * values, 0.0), float("nan"))


def semi_hard(distance, ids, batch_ids, sizes, is_query, first, *, margin):
    """The sum over the positives of each query `(b,)`, and their numbers `(B,)`."""
    num_positives = ops.where(is_query, sizes - 1, 0)  # (B,)
    by_class = ops.argsort(batch_ids)
    place = ops.argsort(by_class)  # of each image among those in order of classes
    rows = ops.arange(ops.shape(ids)[0])
    size = ops.shape(batch_ids)[0]
    own_place = ops.take(place, rows + first)  # (b,)
    own_size = ops.take(sizes, rows + first)
    own_positives = ops.take(num_positives, rows + first)
    start = ops.take(_first_of_class(batch_ids), rows + first)
    is_negative = ops.not_equal(ids[:, None], batch_ids[None, :])  # (b, B)

    def at(x, columns):
        return ops.take(ops.reshape(x, (-1,)), rows * size + columns)

    def add_at(x, columns, values):
        places = ops.stack([rows, columns], axis=1)
        return ops.scatter_update(x, places, at(x, columns) + values)

    @ops.custom_gradient
    def sums(distance):
        negatives = ops.where(is_negative, distance, -math.inf)
        farthest = ops.max(negatives, axis=1)  # (b,)

        def add(k, state):
            total, slope = state
            k = after(ops.sum(total), k)
            # The k-th image behind the query in the circle of its class.
            behind = ops.mod(own_place - start + k, own_size)
            positive = ops.take(by_class, start + behind)
            d_qp = at(distance, positive)  # (b,)
            beyond = ops.where(negatives > d_qp[:, None], negatives, math.inf)
            d_qn = ops.min(beyond, axis=1)
            d_qn = ops.where(ops.isinf(d_qn), farthest, d_qn)
            violation = margin + d_qp - d_qn
            is_violated = ops.logical_and(k <= own_positives, violation > 0)
            is_it = ops.cast(ops.equal(negatives, d_qn[:, None]), "int32")
            ones = ops.cast(is_violated, distance.dtype)
            slope = add_at(slope, positive, ones)
            slope = add_at(slope, ops.argmax(is_it, axis=1), -ones)
            return total + ops.where(is_violated, violation, 0.0), slope

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            return upstream[:, None] * slope

        state = ops.zeros_like(farthest), ops.zeros_like(distance)
        total, slope = ops.fori_loop(1, ops.max(num_positives) + 1, add, state)
        return total, gradient

    return sums(distance), num_positives


def hard(distance, ids, batch_ids, sizes, is_query, first, *, margin, soft):
    """The term of each query `(b,)`, and where an image of the batch has one `(B,)`."""
    is_same = ops.equal(ids[:, None], batch_ids[None, :])  # (b, B)
    is_own = is_self(ids, batch_ids, first)
    is_positive = ops.logical_and(is_same, ops.logical_not(is_own))
    farthest = ops.max(ops.where(is_positive, distance, -math.inf), axis=1)
    nearest = ops.min(ops.where(is_same, math.inf, distance), axis=1)
    # Where there is none, infinity would make the slope NaN.
    d_qp = ops.where(ops.isinf(farthest), 0.0, farthest)
    d_qn = ops.where(ops.isinf(nearest), 0.0, nearest)
    if soft:
        return ops.softplus(d_qp - d_qn), ops.cast(is_query, "int32")
    return ops.maximum(margin + d_qp - d_qn, 0.0), ops.cast(is_query, "int32")


def _per_class(ids):
    """For each image of a batch, how many its class has: `(B,)`."""
    return ops.take(_sizes(ids), ids + 1)


def _first_of_class(ids):
    """For each image, the place of the first of its class in order of classes."""
    sizes = _sizes(ids)
    return ops.take(ops.cumsum(sizes) - sizes, ids + 1)


def _sizes(ids):
    """How many images are distractors, and of each class: `(B + 1,)`."""
    num_segments = ops.shape(ids)[0] + 1
    return ops.segment_sum(ops.ones_like(ids), ids + 1, num_segments=num_segments)


def _check_some_triplets(is_one):
    values = inputs.values_if_eager(is_one)
    if values is not None and not values:
        raise ValueError(
            "Expected a triplet: a query with a positive and a negative. Received: "
            "none in the batch. Draw batches of several classes and of several images "
            "per class, as `ClassBalancedSampler` does; negative labels mark "
            "distractors, which are no queries."
        )
