r"""Metrics for the progress bar: exact AP and recall@k of each batch.

A listwise loss is a smooth stand-in for one minus the AP: its value depends on the
width of the bins, and nobody can tell whether 0.31 is good. These metrics need no
approximation, as they need no gradient. Every image of the batch with positives is a
query and ranks the other images by their dot products:

* **AP**, with tied similarities as one threshold, as in `evaluation`: for the groups
  ``g`` of ties in descending order, with ``p_g`` positives in the group, ``P_g`` of
  them up to its end and ``N_g`` images up to its end,

      AP = 1/R Σ_g p_g P_g / N_g          R positives in all

* **recall@k**: 1 if fewer than ``k`` negatives are as similar as the best positive.

Ties. A matrix product rounds by the place of a row in its tiles: in a collapsed batch,
all embeddings equal, similarities differ in their last bits, and would make a ranking
out of nothing. So similarities that differ by no more than rounding are tied.

The lists are those of a batch: a short list is easy to rank, so numbers compare only
between batches of as many classes and images, and the mAP of a test set is lower. That
is what `RetrievalEvaluation` measures.

Dimension key: ``b`` queries of a block or of this device out of a batch of ``B``, ``D``
units.
"""

import functools
import operator

import keras
from keras import ops

from keras_aploss.losses import (
    check_batch,
    check_sample_weight,
    gather_batch,
    one_at_a_time,
)

# Similarities of a block. Sorting takes up to 100 bytes for each.
_MAX_PAIRS = 2**20
# Counting takes some passes over a row for each of its positives, and sorting as long
# as for this many or more.
_MAX_PASSES = 32
# What a matrix product may get wrong, in parts of |query| |image|.
_ROUNDING = {"float32": 2.0**-21, "float64": 2.0**-50}
# What `ModelCheckpoint` and `EarlyStopping` look for in the attribute `_direction` of a
# metric of any class; there is no other way to tell them.
MORE_IS_BETTER = "up"


def _average_precision(similarity, relevance, rounding):
    """The AP of each row `(b,)`; what is left out of it has a similarity of -inf."""
    num_positives = ops.sum(ops.cast(relevance, "int32"), axis=1)
    most = ops.max(num_positives, initial=0)
    total = ops.cond(
        most <= _MAX_PASSES,
        lambda: _sum_by_counting(similarity, relevance, rounding, most),
        lambda: _sum_by_sorting(similarity, relevance, rounding),
    )
    return ops.divide_no_nan(total, ops.cast(num_positives, "float32"))


def _sum_by_counting(similarity, relevance, rounding, num_passes):
    """`Σ p_g P_g / N_g` of each row `(b,)`, one distinct positive per pass."""
    nothing = -float("inf")
    positives = ops.where(relevance, similarity, nothing)  # (b, B)

    def count(where):
        return ops.sum(ops.cast(where, "float32"), axis=1)

    def add(_, state):
        level, total = state  # of the positive before: (b, 1); (b,)
        level = ops.where(positives < level, positives, nothing)
        level = ops.max(level, axis=1, keepdims=True)
        precision = count(positives >= level - rounding)
        precision = precision / count(similarity >= level - rounding)
        gain = count(positives == level) * precision
        return level, total + ops.where(level[:, 0] > nothing, gain, 0.0)

    level = ops.full_like(similarity[:, :1], float("inf"))
    total = ops.zeros_like(level[:, 0], dtype="float32")
    return ops.fori_loop(0, num_passes, add, (level, total))[1]


def _sum_by_sorting(similarity, relevance, rounding):
    """The same with any number of positives; a run of near neighbours is one group."""
    rows, columns = ops.shape(similarity)
    order = ops.argsort(-similarity, axis=1)
    similarity = ops.take_along_axis(similarity, order, axis=1)
    relevance = ops.take_along_axis(relevance, order, axis=1)  # (b, B)
    # Of -inf and -inf the difference is NaN: not new.
    is_new = ops.cast(similarity[:, :-1] - similarity[:, 1:] > rounding, "int32")
    group = ops.pad(ops.cumsum(is_new, axis=1), ((0, 0), (1, 0)))
    group = ops.reshape(
        group + columns * ops.arange(rows, dtype="int32")[:, None], (-1,)
    )

    def per_group(x):
        x = ops.segment_sum(ops.reshape(x, (-1,)), group, rows * columns)
        return ops.reshape(x, (rows, columns))

    positives = per_group(ops.cast(relevance, "float32"))
    images = per_group(ops.ones_like(similarity, dtype="float32"))
    precision = ops.cumsum(positives, axis=1) / ops.cumsum(images, axis=1)
    return ops.sum(positives * precision, axis=1)


def _recall(similarity, relevance, rounding, k):
    """Whether a positive is among the `k` first of each row `(b,)`, ties at the end."""
    nowhere = -float("inf")
    best = ops.max(ops.where(relevance, similarity, nowhere), axis=1, keepdims=True)
    is_before = similarity >= best - rounding
    is_before = ops.logical_and(is_before, ops.logical_not(relevance))
    above = ops.sum(ops.cast(is_before, "int32"), axis=1)
    return ops.cast(above < k, "float32")


def _measure(of_rows, y_true, y_pred, sample_weight):
    """The metric of each query of this device, and its weight: `(b,)`.

    Queries without positives have weight 0. Values are NaN if in a graph an embedding
    turns out not to be of unit length, or a label not to be a whole number.
    """
    labels, embeddings, is_valid = check_batch(y_true, y_pred)
    batch = gather_batch(embeddings, labels)
    values, has_positives = _of_blocks(of_rows, embeddings, labels, *batch)
    weight = ops.cast(has_positives, "float32")
    if sample_weight is not None:
        weight = weight * check_sample_weight(sample_weight, labels, "float32")
    return ops.where(is_valid, values, float("nan")), weight


def _of_blocks(of_rows, queries, query_labels, images, labels, first):
    """Values of the queries, and whether they have positives, block by block: `(b,)`.

    `first` is the place of the first query among the images.
    """
    size, columns = ops.shape(queries)[0], ops.shape(images)[0]
    block = _clip(_MAX_PAIRS // _clip(columns, 1, None), 1, size)
    num_blocks = -(-size // _clip(block, 1, None))
    padding = num_blocks * block - size
    length_of = functools.partial(ops.norm, axis=1, keepdims=True)
    dtype = keras.backend.standardize_dtype(images.dtype)
    rounding = _ROUNDING[dtype] * ops.max(length_of(images), initial=0)
    queries = ops.pad(queries, ((0, padding), (0, 0)))
    query_labels = ops.pad(query_labels, ((0, padding),), constant_values=-1)

    def add(i, state):
        values, counts = state
        start = one_at_a_time(i, values) * block
        own = ops.slice(queries, (start, 0), (block, queries.shape[1]))
        own_labels = ops.slice(query_labels, (start,), (block,))[:, None]
        place = (first + start + ops.arange(block, dtype="int32"))[:, None]
        is_self = ops.arange(columns, dtype="int32")[None, :] == place  # (block, B)
        similarity = ops.matmul(own, ops.transpose(images))
        similarity = ops.where(is_self, -float("inf"), similarity)
        relevance = ops.logical_and(own_labels == labels[None, :], own_labels >= 0)
        relevance = ops.logical_and(relevance, ops.logical_not(is_self))
        count = ops.sum(ops.cast(relevance, "int32"), axis=1)
        value = ops.cast(
            of_rows(similarity, relevance, rounding * length_of(own)), values.dtype
        )
        return (
            ops.slice_update(values, (start,), value),
            ops.slice_update(counts, (start,), count),
        )

    length = num_blocks * block
    state = ops.zeros((length,), "float32"), ops.zeros((length,), "int32")
    values, counts = ops.fori_loop(0, num_blocks, add, state)
    return values[:size], counts[:size] > 0


def _clip(size, low, high):
    """Clip a number of images, which may be a tensor; `high` may be None."""
    if isinstance(size, int) and isinstance(high, int | None):
        return max(low, size if high is None else min(size, high))
    size = size if high is None else ops.minimum(size, high)
    return ops.maximum(size, low)


@keras.saving.register_keras_serializable(package="keras_aploss")
class BatchAP(keras.metrics.Mean):
    """Exact mean AP of the images of each batch, every one against the others.

    For `model.compile(loss=APLoss(), metrics=[BatchAP()])`: the number that the loss
    stands for. It equals the mAP of `evaluate_leave_one_out` on the batch. Over an
    epoch it is the mean over all queries of all batches.

    A batch is a short list, and easier to rank than a test set: compare numbers of the
    same numbers of classes and images only, and measure a model by
    `RetrievalEvaluation`.

    `y_true` holds integer class labels `(B,)` or `(B, 1)`; a negative label marks a
    distractor, which is ranked but is no query. `y_pred` holds embeddings `(B, D)` of
    unit length (or zeros): the dot products of others rank long rows first, and their
    AP is not that of the cosine. `sample_weight` `(B,)` weighs queries. Images
    without positives do not count; where no query has counted yet, the result is NaN.
    It takes a fixed amount of memory beside the embeddings, and on several devices of
    one host each ranks the images of all.

    Args:
        name: name in the logs.
        dtype: dtype of the sums.

    Raises:
        ValueError: if shapes do not fit or labels are not integers; and in eager mode
            if an embedding is not finite and of unit length (or zeros). In a graph such
            a batch makes the result NaN.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import BatchAP
    >>> metric = BatchAP()
    >>> embeddings = np.array([[1, 0], [0.8, 0.6], [0.96, 0.28], [0, 1]])
    >>> metric.update_state([5, 5, 6, 7], embeddings)
    >>> float(metric.result())  # each of the two queries finds image 2 first
    0.5
    """

    def __init__(self, name: str = "batch_ap", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._direction = MORE_IS_BETTER

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the queries of a batch; see the class for the arguments."""
        values, weight = _measure(_average_precision, y_true, y_pred, sample_weight)
        return super().update_state(values, sample_weight=weight)

    def result(self):
        """The mean over the queries so far, a scalar."""
        return _mean(self.total, self.count)


@keras.saving.register_keras_serializable(package="keras_aploss")
class BatchRecall(keras.metrics.Mean):
    """Part of the images of each batch that find one of their class among the k first.

    Exactly the `recall_at_k` of `evaluate_leave_one_out` on the batch: a negative that
    is as similar as the best positive comes before it. Used as `BatchAP`; see there for
    what it takes and what it says.

    Args:
        k: how many images a query looks at.
        name: name in the logs. Default: `batch_recall_at_` and `k`.
        dtype: dtype of the sums.

    Raises:
        ValueError: if `k` is not a positive integer; and as `BatchAP`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import BatchRecall
    >>> metric = BatchRecall(k=1)
    >>> embeddings = np.array([[1, 0], [0.8, 0.6], [0.96, 0.28], [0, 1]])
    >>> metric.update_state([5, 5, 6, 6], embeddings)
    >>> float(metric.result()), metric.name  # image 3, alone, finds 1 before 2
    (0.0, 'batch_recall_at_1')
    """

    def __init__(self, k: int = 1, name: str | None = None, dtype=None):
        try:
            self.k = operator.index(k)
        except TypeError:
            self.k = 0
        if self.k < 1:
            raise ValueError(f"Expected `k` to be an integer >= 1. Received: k={k!r}.")
        super().__init__(name=name or f"batch_recall_at_{self.k}", dtype=dtype)
        self._direction = MORE_IS_BETTER

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the queries of a batch; see `BatchAP` for the arguments."""
        of_rows = functools.partial(_recall, k=self.k)
        values, weight = _measure(of_rows, y_true, y_pred, sample_weight)
        return super().update_state(values, sample_weight=weight)

    def result(self):
        """The mean over the queries so far, a scalar."""
        return _mean(self.total, self.count)

    def get_config(self):
        return {**super().get_config(), "k": self.k}


def _mean(total, count):
    """NaN where nothing was counted: 0 would be a claim."""
    return ops.where(count > 0, ops.divide_no_nan(total, count), float("nan"))
