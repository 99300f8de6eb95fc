r"""The triplets that a loss chooses in a batch, and how far they are violated.

**Memory.** The semi-hard negatives of the k-th positives of all queries are found at
once, for one k after the other: ``O(B²)`` memory, where all triplets at once take
``O(B³)``, and ``O(B² K)`` time. The gradient to the distances is made on the way: 1 at
each violated pair of a query and a positive, -1 at the negative that the pair met.

Dimension key: ``b`` queries out of a batch of ``B``, ``D`` units, ``K`` images of the
largest class. On one device ``b = B``.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_aploss.losses import checks, replicas
from keras_aploss.losses.blocks import one_at_a_time
from keras_aploss.losses.classes import Classmates
from keras_aploss.losses.distances import check_distance_metric, distances, is_self


class Comparison(NamedTuple):
    """The queries of a device beside the batch of all devices.

    Attributes:
        distance: of each query to each image: `(b, B)`.
        is_same: whether the image is of the class of the query: `(b, B)`.
        is_own: whether it is the query itself: `(b, B)`.
        is_query: whether an image of the batch is a query with negatives: `(B,)`.
        classmates: `Classmates` of the batch.
        first: the place of the first query in the batch.
        are_finite: whether all embeddings and distances are finite: `()`.
    """

    distance: Any
    is_same: Any
    is_own: Any
    is_query: Any
    classmates: Any
    first: Any
    are_finite: Any

    def of_queries(self, x):
        """Of `x` `(B,)`, the part of the queries `(b,)`."""
        return ops.slice(x, (self.first,), (ops.shape(self.distance)[0],))


def compare_in_replica(embeddings, ids, distance_metric):
    """`compare` this device's images `(b, D)` with the batch of all devices."""
    batch, batch_ids, first = replicas.gather_batch(embeddings, ids)
    checks.check_list_length(batch_ids, least=2)
    return compare(embeddings, ids, batch, batch_ids, distance_metric, first)


def compare(queries, ids, batch, batch_ids, distance_metric, first=0):
    """The `Comparison` of queries with a batch.

    Args:
        queries: float tensor `(b, D)`.
        ids: `class_ids` of the queries `(b,)`.
        batch: float tensor `(B, D)`, which holds the queries from `first` on.
        batch_ids: `class_ids` of the batch `(B,)`.
        distance_metric: see `distances`.
        first: the place of the first query in the batch.

    Raises:
        ValueError: if shapes or metric do not fit, or in eager mode an embedding is not
            finite.
    """
    check_distance_metric(distance_metric)
    are_finite = checks.check_finite(batch, batch_ids)
    distance = distances(queries, batch, distance_metric, first)
    if callable(distance_metric):  # else finite embeddings have finite distances
        are_finite = ops.logical_and(are_finite, ops.all(ops.isfinite(distance)))
    classmates = Classmates.of(batch_ids)
    has_negatives = classmates.size < ops.shape(batch_ids)[0]
    return Comparison(
        distance,
        is_same=ops.equal(ids[:, None], batch_ids[None, :]),
        is_own=is_self(queries, batch, first),
        is_query=ops.logical_and(batch_ids >= 0, has_negatives),
        classmates=classmates,
        first=first,
        are_finite=are_finite,
    )


def semi_hard(comparison, *, margin):
    """The semi-hard triplet loss of each query `(b,)`; its mean is over all pairs."""
    classmates, is_same = comparison.classmates, comparison.is_same
    counts = ops.where(comparison.is_query, classmates.size - 1, 0)  # (B,)
    num_positives = comparison.of_queries(counts)  # (b,)
    num_queries, size = ops.shape(is_same)[0], ops.shape(is_same)[1]
    classmates = classmates.of_images(comparison.first, num_queries)
    rows = ops.arange(num_queries, dtype="int32")

    def at(x, columns):
        return ops.take(ops.reshape(x, (-1,)), rows * size + columns)

    def add_at(x, columns, values):
        places = ops.stack([rows, ops.cast(columns, rows.dtype)], axis=1)
        return ops.scatter_update(x, places, at(x, columns) + values)

    @ops.custom_gradient
    def sums(distance):
        negatives = ops.where(is_same, -math.inf, distance)  # (b, B)
        farthest = ops.max(negatives, axis=1)  # (b,)

        def add(k, state):
            total, slope = state
            k = one_at_a_time(k, ops.sum(total))
            positive = classmates.kth(k)
            d_qp = at(distance, positive)  # (b,)
            beyond = ops.where(negatives > d_qp[:, None], negatives, math.inf)
            d_qn = ops.min(beyond, axis=1)
            d_qn = ops.where(ops.isinf(d_qn), farthest, d_qn)
            violation = margin + d_qp - d_qn
            is_violated = ops.logical_and(k <= num_positives, violation > 0)
            # The first of equally far ones; argmax of booleans is not for all backends.
            is_met = ops.cast(ops.equal(negatives, d_qn[:, None]), "int32")
            ones = ops.cast(is_violated, distance.dtype)
            slope = add_at(slope, positive, ones)
            slope = add_at(slope, ops.argmax(is_met, axis=1), -ones)
            return total + ops.where(is_violated, violation, 0.0), slope

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            return upstream[:, None] * slope

        state = ops.zeros_like(farthest), ops.zeros_like(distance)
        total, slope = ops.fori_loop(1, ops.max(counts) + 1, add, state)
        return total, gradient

    return _values(comparison, sums(comparison.distance), counts)


def hard(comparison, *, margin, soft):
    """The hard triplet loss of each query `(b,)`; its mean is over all queries."""
    distance, is_same, is_own, *_ = comparison
    is_positive = ops.logical_and(is_same, ops.logical_not(is_own))
    farthest = ops.max(ops.where(is_positive, distance, -math.inf), axis=1)
    nearest = ops.min(ops.where(is_same, math.inf, distance), axis=1)
    # Where there is none, infinity would make the slope NaN.
    d_qp = ops.where(ops.isinf(farthest), 0.0, farthest)
    d_qn = ops.where(ops.isinf(nearest), 0.0, nearest)
    if soft:
        terms = ops.softplus(d_qp - d_qn)
    else:
        terms = ops.maximum(margin + d_qp - d_qn, 0.0)
    return _values(comparison, terms, ops.cast(comparison.is_query, "int32"))


def _values(comparison, terms, counts):
    """Scale terms `(b,)` so that the mean over the batch divides by all `counts`."""
    count = ops.sum(counts)
    _check_some(count > 0)
    scale = ops.divide_no_nan(
        ops.cast(ops.shape(counts)[0], terms.dtype), ops.cast(count, terms.dtype)
    )
    has_term = comparison.of_queries(counts) > 0
    values = ops.where(has_term, scale * terms, 0.0)
    return ops.where(comparison.are_finite, values, float("nan"))


def _check_some(is_some):
    values = checks.values_if_eager(is_some)
    if values is not None and not values:
        raise ValueError(
            "Expected a triplet: a query with a positive and a negative. Received: "
            "none in the batch. Draw batches of several classes and of several images "
            "per class, as `ClassBalancedSampler` does; negative labels mark "
            "distractors, which are no queries."
        )
