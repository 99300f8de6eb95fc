r"""Losses that rank lists: each query ranks a list, and its AP is made of soft counts.

A listwise loss is a formula that makes an AP of the cumulative soft histograms
``C⁺_m`` and ``C_m`` of a query's list (`histogram`). All the rest is the same for all
of them and is here: the checks, the lists, queries without positives, weights of
queries, and the Keras class around it.

Dimension key: ``B`` batch, ``Q`` queries, ``N`` images of the database, ``D`` units,
``M`` bins.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_aploss.losses import checks, replicas
from keras_aploss.losses.blocks import counts_in_batch, counts_in_database
from keras_aploss.losses.classes import class_ids


def listwise_loss(
    average_precision: Callable[[Any], Any],
    query_embeddings: Any,
    query_labels: Any,
    database_embeddings: Any = None,
    database_labels: Any = None,
    *,
    bins: Any,
    exclude_self: bool = False,
    block_size: int | None = None,
) -> Any:
    """One minus the AP of each query, 0 without positives: `(Q,)`.

    Args:
        average_precision: maps `(Q, 2, M)` of `histogram.cumulative_counts` to the AP
            of each query `(Q,)`.
        query_embeddings: see `ap_loss`, as for all that follow.
        query_labels: see there.
        database_embeddings: see there.
        database_labels: see there.
        bins: a `histogram.Bins`.
        exclude_self: see there.
        block_size: see there.

    Raises:
        ValueError: see there.
    """
    checks.check_block_size(block_size)
    labels, are_valid = checks.check_labels(query_labels, "query_labels")
    embeddings = checks.as_floats(query_embeddings)
    are_unit = checks.check_embeddings(embeddings, labels, "query_embeddings")
    are_valid = ops.logical_and(are_valid, are_unit)
    if (database_embeddings is None) != (database_labels is None):
        raise ValueError(
            "Expected database_embeddings and database_labels together, or neither. "
            f"Received: {'labels' if database_embeddings is None else 'embeddings'} "
            "alone."
        )
    if database_embeddings is None:
        checks.check_list_length(labels, least=2)
        counts = counts_in_batch(
            embeddings, labels, bins, exclude_self=exclude_self, block_size=block_size
        )
        num_others = counts[:, 0, -1] - (0 if exclude_self else 1)
    else:
        if exclude_self:
            raise ValueError(
                "Expected exclude_self=False with a database: it holds none of the "
                "queries. Received: exclude_self=True. If it does hold them, leave "
                "them out of it."
            )
        list_labels, are_whole = checks.check_labels(database_labels, "database_labels")
        checks.check_list_length(list_labels, least=1)
        database = ops.cast(checks.as_floats(database_embeddings), embeddings.dtype)
        are_unit = checks.check_embeddings(
            database, list_labels, "database_embeddings", units=embeddings.shape[1]
        )
        are_valid = ops.logical_and(are_valid, ops.logical_and(are_whole, are_unit))
        counts = counts_in_database(
            embeddings, labels, database, list_labels, bins, block_size=block_size
        )
        num_others = counts[:, 0, -1]
    checks.check_some_positives(num_others > 0)
    # Where every query finds only itself, there is nothing to learn.
    values = _values(average_precision, counts, are_valid)
    return ops.where(ops.any(num_others > 0), values, ops.where(are_valid, 0.0, values))


def batch_loss(
    average_precision: Callable[[Any], Any],
    embeddings: Any,
    ids: Any,
    *,
    bins: Any,
    exclude_self: bool,
    block_size: int | None,
) -> Any:
    """`listwise_loss` of this device's images against the batch of all devices: `(b,)`.

    The batch is checked as a whole, so what is wrong on one device is so on all.

    Args:
        average_precision: see `listwise_loss`.
        embeddings: float tensor `(b, D)`, those of this device.
        ids: `(b,)`, as `queries_of` numbers the classes of the whole batch.
        bins: a `histogram.Bins`.
        exclude_self: see `ap_loss`.
        block_size: see there.
    """
    settings = {"bins": bins, "block_size": block_size}
    if replicas.count() == 1:
        settings["exclude_self"] = exclude_self
        return listwise_loss(average_precision, embeddings, ids, **settings)
    batch = replicas.gather(embeddings)  # (B, D)
    batch_ids = ops.cast(replicas.gather(ids), ids.dtype)  # (B,)
    checks.check_list_length(batch_ids, least=2)
    are_valid = checks.check_embeddings(batch, batch_ids)
    first = replicas.first_row(ids) if exclude_self else None
    counts = counts_in_database(
        embeddings, ids, batch, batch_ids, first=first, **settings
    )
    return _values(average_precision, counts, are_valid)


def _values(average_precision, counts, are_valid):
    has_positives = counts[:, 0, -1] > 0  # (Q,)
    values = ops.where(has_positives, 1.0 - average_precision(counts), 0.0)
    return ops.where(are_valid, values, float("nan"))


def queries_of(labels, sample_weight, reduction, *, exclude_self, dtype):
    """Number the classes and weigh the queries, before Keras casts and averages.

    Under a strategy of several devices, classes and positives are those of the whole
    batch; what is given and returned are the parts of this device, `b` of `B` images.

    Args:
        labels: class labels, `(b,)` or `(b, 1)`.
        sample_weight: the user's weights of queries `(b,)`, or None.
        reduction: the loss's.
        exclude_self: whether an image is left out of its own list.
        dtype: the loss's.

    Returns:
        `class_ids` of the labels `(b,)`, and weights `(b,)` that make the
        reduction one over the queries with positives. The weights are NaN if in a graph
        labels turn out not to be whole numbers.
    """
    replicas.refuse_several_hosts()
    batch_labels, are_whole = checks.check_labels(replicas.gather(labels))
    ids = class_ids(batch_labels)
    size = ops.shape(ids)[0]
    is_query = ops.cast(ids >= 0, "int32")
    classes = ops.maximum(ids, 0)
    per_class = ops.segment_sum(is_query, classes, num_segments=size)
    num_positives = ops.take(per_class, classes) - (1 if exclude_self else 0)
    has_positives = ops.logical_and(num_positives > 0, ops.any(per_class > 1))
    weight = ops.cast(is_query * ops.cast(has_positives, "int32"), dtype)
    if replicas.count() > 1:  # else the values of all queries will tell
        checks.check_some_positives(weight > 0)
    num_queries = ops.sum(weight)
    ids, weight = replicas.own_rows(labels, ids, weight)  # (b,)
    if reduction in ("sum_over_batch_size", "mean"):
        # Keras divides by the images of a device, and by the number of devices.
        divisor = ops.cast(ops.shape(ids)[0] * replicas.count(), dtype)
        weight = weight * ops.divide_no_nan(divisor, num_queries)
    if sample_weight is not None:
        weight = weight * checks.check_sample_weight(sample_weight, ids, dtype)
    return ids, ops.where(are_whole, weight, float("nan"))


class ListwiseLoss(keras.losses.Loss):
    """One minus the AP of every image of a batch against the whole batch.

    Private to this room: `APLoss` and `TieAwareAPLoss`, which users see, say how the AP
    is made of soft histograms. Arguments are those of `APLoss`.
    """

    def __init__(
        self,
        num_bins: int,
        similarity_range: Sequence[float],
        exclude_self: bool,
        block_size: int | None,
        *,
        reduction: str | None,
        name: str,
        dtype: str | None,
    ):
        checks.check_bins(num_bins, similarity_range)
        checks.check_block_size(block_size)
        replicas.refuse_several_hosts()
        dtype = checks.check_dtype(dtype)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.num_bins = num_bins
        self.similarity_range = tuple(float(limit) for limit in similarity_range)
        self.exclude_self = exclude_self
        self.block_size = block_size

    def average_precision(self, counts):
        """AP `(Q,)` of cumulative soft histograms `(Q, 2, M)`."""
        raise NotImplementedError

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Return the reduced loss; see the class for the arguments."""
        ids, weight = queries_of(
            y_true,
            sample_weight,
            self.reduction,
            exclude_self=self.exclude_self,
            dtype=self.dtype,
        )
        loss = super().__call__(ids, y_pred, weight)
        return replicas.agree(loss, weight, self.reduction)

    def call(self, y_true, y_pred):
        """Return one minus the AP per query `(B,)`, 0 for one without positives."""
        return batch_loss(
            self.average_precision,
            ops.convert_to_tensor(y_pred, dtype=self.dtype),
            ops.cast(ops.reshape(y_true, (-1,)), "int32"),
            bins=checks.check_bins(self.num_bins, self.similarity_range),
            exclude_self=self.exclude_self,
            block_size=self.block_size,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_bins": self.num_bins,
            "similarity_range": self.similarity_range,
            "exclude_self": self.exclude_self,
            "block_size": self.block_size,
            "dtype": self.dtype,
        }
