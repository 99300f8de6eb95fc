r"""Average Precision as a loss: the listwise, quantized AP of Revaud et al. (2019).

Sorting is not differentiable, a soft histogram is. Each query's similarities to the
``N`` images of its list are spread over ``M`` bins with descending centres
``b_m = high - (m - 1) Δ``, ``Δ = (high - low) / (M - 1)``; a similarity gives its
weight to its two neighbouring bins by linear interpolation (eq. 7):

    δ(s, m) = max(1 - |s - b_m| / Δ, 0)

Reading the histogram from the top bin down is reading the ranking from its head, so
precision, incremental recall and AP become sums over bins (eq. 9-11):

    P_m  = Σ_{m' ≤ m} Σ_j δ(s_j, m') y_j / Σ_{m' ≤ m} Σ_j δ(s_j, m')
    Δr_m = Σ_j δ(s_j, m) y_j / Σ_j y_j
    AP_Q = Σ_m P_m Δr_m

AP_Q equals AP when all similarities sit on distinct bin centres; elsewhere the images
of a bin share their rank, so it is an approximation from which one trains, never a
figure to report: the exact AP is in `keras_aploss.evaluation`.

Dimension key: ``Q`` queries, ``N`` images of a list, ``M`` bins, ``B`` batch (then
``Q = N = B``), ``D`` units of an embedding.

Reference: Revaud, Almazan, Rezende, de Souza, "Learning with Average Precision:
Training Image Retrieval with a Listwise Loss", ICCV 2019, arXiv:1906.07589.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_aploss.losses.inputs import (
    check_embeddings,
    check_labels,
    check_sample_weight,
    same_shape,
)


def quantized_average_precision(
    similarity: Any,
    relevance: Any,
    *,
    num_bins: int = 20,
    similarity_range: Sequence[float] = (-1.0, 1.0),
) -> Any:
    """Quantized Average Precision (AP_Q, eq. 11) of each row, differentiable.

    A similarity outside `similarity_range` counts wholly in the end bin and has no
    gradient: a range of (0, 1) therefore gives no signal on negative cosines.

    Args:
        similarity: float tensor `(Q, N)`: similarity of each query to each image of
            its list. 16-bit floats are computed in float32.
        relevance: boolean or 0/1 tensor `(Q, N)`: true where an image is a positive.
        num_bins: number of bins `M`, at least 2. The paper uses 20.
        similarity_range: `(low, high)`, the centres of the last and the first bin.

    Returns:
        Tensor `(Q,)` of AP_Q in [0, 1], float32 (float64 for float64 input). A row
        without positives has no AP and gives 0; a row with a NaN gives NaN.

    Raises:
        ValueError: if the shapes are not equal and of rank 2, `num_bins` is below 2,
            or `similarity_range` is empty.

    Example:
    >>> from keras_aploss import quantized_average_precision
    >>> similarity = [[1.0, 0.5, 0.0, -0.5, -1.0]]  # each on a centre of 5 bins
    >>> relevance = [[True, False, True, False, False]]
    >>> ap = quantized_average_precision(similarity, relevance, num_bins=5)
    >>> [round(float(value), 4) for value in ap]  # (1/1 + 2/3) / 2
    [0.8333]
    """
    _check_bins(num_bins, similarity_range)
    similarity = ops.convert_to_tensor(similarity)
    if keras.backend.standardize_dtype(similarity.dtype) != "float64":
        similarity = ops.cast(similarity, "float32")
    relevance = ops.cast(ops.convert_to_tensor(relevance), similarity.dtype)
    relevance = ops.cast(relevance > 0, similarity.dtype)
    shapes = tuple(similarity.shape), tuple(relevance.shape)
    if len(shapes[0]) != 2 or not same_shape(*shapes):
        raise ValueError(
            "Expected `similarity` and `relevance` of one shape (Q, N). Received: "
            f"similarity.shape={shapes[0]}, relevance.shape={shapes[1]}. "
            "Give a single query as a matrix of one row."
        )

    is_nan = ops.isnan(similarity)
    similarity = ops.where(is_nan, 0.0, similarity)
    bin_of = _bins_of(similarity, num_bins, similarity_range)
    images = _soft_histogram(ops.ones_like(similarity), *bin_of, num_bins)  # (Q, M)
    positives = _soft_histogram(relevance, *bin_of, num_bins)  # (Q, M)
    precision = ops.divide_no_nan(
        ops.cumsum(positives, axis=1), ops.cumsum(images, axis=1)
    )
    num_positives = ops.sum(relevance, axis=1, keepdims=True)  # (Q, 1)
    incremental_recall = ops.divide_no_nan(positives, num_positives)
    ap = ops.sum(precision * incremental_recall, axis=1)
    return ops.where(ops.any(is_nan, axis=1), float("nan"), ap)


def _bins_of(similarity, num_bins, similarity_range):
    """Upper of the two bins that each similarity touches, and the lower's share."""
    low, high = similarity_range
    position = (high - similarity) * ((num_bins - 1) / (high - low))
    position = ops.clip(position, 0.0, num_bins - 1.0)
    upper = ops.minimum(ops.floor(ops.stop_gradient(position)), num_bins - 2.0)
    return ops.cast(upper, "int32"), position - upper  # (Q, N), (Q, N)


def _soft_histogram(weight, upper, fraction, num_bins):
    """Sum over a row of `weight * δ(s, m)` for each bin, without a `(Q, M, N)` tensor.

    Two numbers per similarity are scattered: its weight and the lower bin's part of it.
    """
    num_rows = ops.shape(weight)[0]
    first_bin = ops.expand_dims(ops.arange(num_rows, dtype="int32") * num_bins, 1)
    pair = ops.stack([weight, weight * fraction], axis=-1)  # (Q, N, 2)
    sums = ops.segment_sum(
        ops.reshape(pair, (-1, 2)),
        ops.reshape(first_bin + upper, (-1,)),
        num_segments=num_rows * num_bins,
    )
    sums = ops.reshape(sums, (-1, num_bins, 2))
    total, to_lower = sums[..., 0], sums[..., 1]  # (Q, M), (Q, M)
    from_upper = ops.pad(to_lower[:, :-1], ((0, 0), (1, 0)))
    return total - to_lower + from_upper


@keras.saving.register_keras_serializable(package="keras_aploss")
class APLoss(keras.losses.Loss):
    """One minus the quantized AP of every image of a batch against the whole batch.

    Each image of the batch is a query that ranks the batch by similarity, and the
    images of its own class are its positives. All `B` rankings are improved at once,
    without pairs, triplets or a search for hard negatives (eq. 12):

        loss = 1 - mean_i AP_Q(similarities of i, relevance of i)

    `y_true` holds integer class labels, shape `(B,)` or `(B, 1)`. A negative label
    marks a distractor: it is in every list, never relevant and never a query.
    `y_pred` holds unit-length embeddings `(B, D)`. There is one value `1 - AP_Q` per
    query; a query without positives has no loss term: its value is 0, and the mean
    is over the queries that have one. `sample_weight` `(B,)` weighs queries, not the
    images of their lists.

    Big batches rank like the real database; `ClassBalancedSampler` fills them so that
    every query has positives. The arithmetic is float32 whatever the precision policy,
    and labels stay integers (as floats, ids above 2²⁴ would collide).

    **What is checked, and when.** Shapes and label dtypes always. Values where they
    can be read, i.e. in eager mode, with a `ValueError`. In a graph (`model.fit`)
    no portable operation can raise, so there embeddings that are not of unit length
    (squared length off by more than 0.03, or NaN) make the loss NaN instead of
    silently wrong, at a cost of `O(B D)` beside the `O(B² D)` of the similarities.
    End the model with `keras.layers.UnitNormalization()`, as `retrieval_model` does.

    Args:
        num_bins: number of bins `M` of the similarity histogram, at least 2.
        similarity_range: `(low, high)`, centres of the last and first bin. The
            published code uses 25 bins on (0, 1), the paper 20 on (-1, 1).
        exclude_self: if true, a query is left out of its own list, where it is a
            positive at similarity 1 that flatters AP when positives are few. The
            paper keeps it in. Left out, an image alone in its class has no positive
            and no loss term.
        reduction: as for every Keras loss; `"sum_over_batch_size"` (or `"mean"`) is
            the mean over the queries with positives, `None` gives the values `(B,)`.
        name: name of the loss.
        dtype: `"float32"` (default) or `"float64"`.

    Raises:
        ValueError: at construction, if `num_bins` is below 2, `similarity_range` is
            empty or `dtype` has 16 bits; at the call, if shapes do not fit, labels are
            not integers or, in eager mode, embeddings are not finite and of unit
            length.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import APLoss
    >>> labels = np.array([7, 7, 8, 8])
    >>> apart = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])  # classes apart
    >>> round(float(APLoss()(labels, apart)), 4)
    0.0
    >>> mixed = apart[[0, 2, 1, 3]]  # each image beside one of the other class
    >>> round(float(APLoss()(labels, mixed)), 4)
    0.5
    """

    def __init__(
        self,
        num_bins: int = 20,
        similarity_range: Sequence[float] = (-1.0, 1.0),
        exclude_self: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "ap_loss",
        dtype: str | None = None,
    ):
        _check_bins(num_bins, similarity_range)
        super().__init__(name=name, reduction=reduction, dtype=_float_dtype(dtype))
        self.num_bins = num_bins
        self.similarity_range = tuple(float(limit) for limit in similarity_range)
        self.exclude_self = exclude_self

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Return the reduced loss; see the class for the arguments.

        Keras casts labels to the dtype of the loss. Their place is taken by numbers
        that survive the cast: the position in the batch of the first image of the
        class (-1 for distractors).
        """
        labels = check_labels(y_true)
        same_class = ops.equal(labels[:, None], labels[None, :])  # (B, B)
        first_of_class = ops.cast(ops.argmax(same_class, axis=1), "int32")
        labels = ops.where(labels < 0, -1, first_of_class)
        weight = ops.cast(self._has_positives(labels), self.dtype)  # (B,)
        if self.reduction in ("sum_over_batch_size", "mean"):
            # Keras divides by B; the mean is over the queries that have a term.
            batch_size = ops.cast(ops.shape(weight)[0], self.dtype)
            weight = weight * ops.divide_no_nan(batch_size, ops.sum(weight))
        if sample_weight is not None:
            weight = weight * check_sample_weight(sample_weight, labels, self.dtype)
        return super().__call__(labels, y_pred, weight)

    def call(self, y_true, y_pred):
        """Return `1 - AP_Q` per query `(B,)`, 0 for a query without positives."""
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        embeddings = ops.convert_to_tensor(y_pred, dtype=self.dtype)  # (B, D)
        unit_length = check_embeddings(embeddings, labels)
        similarity = ops.matmul(embeddings, ops.transpose(embeddings))  # (B, B)
        relevance = _relevance(labels)
        if self.exclude_self:
            similarity = _without_diagonal(similarity)  # (B, B - 1)
            relevance = _without_diagonal(relevance)
        ap = quantized_average_precision(
            similarity,
            relevance,
            num_bins=self.num_bins,
            similarity_range=self.similarity_range,
        )
        values = ops.where(self._has_positives(labels), 1.0 - ap, 0.0)
        return ops.where(unit_length, values, float("nan"))

    def get_config(self):
        return {
            **super().get_config(),
            "num_bins": self.num_bins,
            "similarity_range": self.similarity_range,
            "exclude_self": self.exclude_self,
            "dtype": self.dtype,
        }

    def _has_positives(self, labels):
        itself = 1 if self.exclude_self else 0
        num_positives = ops.sum(ops.cast(_relevance(labels), "int32"), axis=1)
        return num_positives > itself  # (B,)


def _relevance(labels):
    same_class = ops.equal(labels[:, None], labels[None, :])
    return ops.logical_and(same_class, labels[:, None] >= 0)  # (B, B)


def _without_diagonal(matrix):
    """Drop the diagonal of `(B, B)`, giving `(B, B - 1)`."""
    size = ops.shape(matrix)[0]
    # In rows that are one element longer, the diagonal is a column of its own.
    rows = ops.reshape(ops.reshape(matrix, (-1,))[1:], (size - 1, size + 1))
    return ops.reshape(rows[:, :-1], (size, size - 1))


def _float_dtype(dtype):
    if dtype is None:
        return "float64" if keras.backend.floatx() == "float64" else "float32"
    compute_dtype = keras.dtype_policies.get(dtype).compute_dtype
    if compute_dtype not in ("float32", "float64"):
        raise ValueError(
            "APLoss computes in float32 or float64: 16 bits cannot hold counts of "
            f"images. Received: dtype={dtype!r}. Leave `dtype` out: embeddings of a "
            "mixed-precision model are cast to float32."
        )
    return compute_dtype


def _check_bins(num_bins, similarity_range):
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
