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

`quantized_average_precision` is these formulas as code: the definition, and what to
read first. `ap_loss` and `APLoss` compute one minus the same AP_Q from embeddings, with
a gradient in closed form: in terms of the cumulative histograms ``C⁺_m`` and ``C_m``
(the sums over ``m' ≤ m``, of positives and of all images), ``P_m = C⁺_m / C_m``;
`histogram` and `blocks` make them without ever holding all similarities.

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
from keras import ops

from keras_aploss.losses.checks import check_bins, check_similarities
from keras_aploss.losses.listwise import ListwiseLoss, listwise_loss


def quantized_average_precision(
    similarity: Any,
    relevance: Any,
    *,
    num_bins: int = 20,
    similarity_range: Sequence[float] = (-1.0, 1.0),
) -> Any:
    """Quantized Average Precision (AP_Q, eq. 11) of each row, differentiable.

    The definition that `ap_loss` computes in closed form: the formulas of the paper and
    automatic differentiation, which holds some tensors `(Q, N)` for each bin. It takes
    similarities of any origin; to train on embeddings, use `ap_loss` or `APLoss`.

    A similarity outside `similarity_range` counts wholly in the end bin and has no
    gradient: a range of (0, 1) therefore gives no signal on negative cosines. At a bin
    centre the kernel has a kink, and its slope is what automatic differentiation of the
    backend makes of it; `ap_loss` takes the limit from below.

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
    _, low, high = check_bins(num_bins, similarity_range)
    similarity, relevance = check_similarities(similarity, relevance)  # (Q, N)
    similarity = ops.clip(similarity, low, high)  # the end bins saturate
    num_positives = ops.sum(relevance, axis=1)  # (Q,)
    ap = positives = images = ops.zeros_like(num_positives)
    delta = (high - low) / (num_bins - 1)
    for m in range(num_bins):
        centre = high - m * delta
        weight = ops.relu(1.0 - ops.abs(similarity - centre) / delta)  # eq. 7
        positives_here = ops.sum(weight * relevance, axis=1)  # (Q,)
        positives = positives + positives_here
        images = images + ops.sum(weight, axis=1)
        precision = ops.divide_no_nan(positives, images)  # eq. 9
        incremental_recall = ops.divide_no_nan(positives_here, num_positives)  # eq. 10
        ap = ap + precision * incremental_recall  # eq. 11
    return ap


def average_precision_of(counts):
    """AP_Q `(Q,)` (eq. 9-11) of cumulative soft histograms `(Q, 2, M)`."""
    positives, images = counts[:, 0], counts[:, 1]  # C⁺ and C, (Q, M)
    precision = ops.divide_no_nan(positives, images)
    of_bin = positives - ops.pad(positives[:, :-1], ((0, 0), (1, 0)))
    incremental_recall = ops.divide_no_nan(of_bin, positives[:, -1:])
    return ops.sum(precision * incremental_recall, axis=1)


def ap_loss(
    query_embeddings: Any,
    query_labels: Any,
    database_embeddings: Any = None,
    database_labels: Any = None,
    *,
    num_bins: int = 20,
    similarity_range: Sequence[float] = (-1.0, 1.0),
    exclude_self: bool = False,
    block_size: int | None = None,
) -> Any:
    """One minus the quantized AP of each query (eq. 12, before the mean).

    The AP is defined by `quantized_average_precision`; here it is made in closed form.
    Without a database the queries rank one another: that is `APLoss`. With one they
    rank the database, such as the embeddings of earlier batches (a cross-batch memory)
    or of a catalogue; gradients flow to both, unless one of them is a constant.

    The similarities are never held all at once: memory grows with `block_size * N`
    beside a fixed 64 MiB (with up to 126 bins), time with `Q * N * D`. The gradient is
    closed-form; there is no second derivative.

    Args:
        query_embeddings: float tensor `(Q, D)`, rows of unit length. 16-bit floats are
            computed in float32, float64 in float64.
        query_labels: integer tensor `(Q,)` of class labels. A query with a negative
            label is a distractor: it has no positives, and its value is 0.
        database_embeddings: float tensor `(N, D)`, or None for the queries themselves.
        database_labels: integer tensor `(N,)`. Negative labels mark distractors.
        num_bins: number of bins `M` of the similarity histogram, at least 2.
        similarity_range: `(low, high)`, the centres of the last and the first bin.
        exclude_self: leave each query out of its own list; only without a database.
        block_size: the most queries whose similarities are held at once, which bounds
            the memory and changes results by rounding only; None chooses.

    Returns:
        Tensor `(Q,)` of `1 - AP_Q`, float32 (float64 for float64 input); 0 for a query
        without positives, and for all where no query has another positive than itself.
        In a graph, all are NaN if an embedding is not of unit length.

    Raises:
        ValueError: if shapes or settings do not fit, labels are not integers, a list
            has fewer than two images (one, in a database) or more than 2²¹ - 1; and in
            eager mode if an embedding is not finite and of unit length, or no query has
            another positive than itself.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ap_loss
    >>> queries = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> database = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> values = ap_loss(queries, [5, 6], database, [5, 5, 6], num_bins=3)
    >>> [round(float(value), 4) for value in values]  # AP 1, and 1/3 in a tie
    [0.0, 0.6667]
    """
    return listwise_loss(
        average_precision_of,
        query_embeddings,
        query_labels,
        database_embeddings,
        database_labels,
        bins=check_bins(num_bins, similarity_range),
        exclude_self=exclude_self,
        block_size=block_size,
    )


@keras.saving.register_keras_serializable(package="keras_aploss")
class APLoss(ListwiseLoss):
    """One minus the quantized AP of every image of a batch against the whole batch.

    Each image of the batch is a query that ranks the batch by similarity, and the
    images of its own class are its positives. All `B` rankings are improved at once,
    without pairs, triplets or a search for hard negatives (eq. 12):

        loss = 1 - mean_i AP_Q(similarities of i, relevance of i)

    with `AP_Q` as `quantized_average_precision` defines it.

    `y_true` holds integer class labels, shape `(B,)` or `(B, 1)`. A negative label
    marks a distractor: it is in every list, never relevant and never a query.
    `y_pred` holds unit-length embeddings `(B, D)`. There is one value `1 - AP_Q` per
    query; a query without positives has no loss term: its value is 0, and the mean
    is over the queries that have one. A batch in which no image has another of its
    class is refused in eager mode, and has the loss 0 and no gradient in a graph.
    `sample_weight` `(B,)` weighs queries, not the images of their lists.

    **The loss depends on the batch.** A batch of one class has no negatives, and any
    model the loss 0; one of a few classes is easy. So `val_loss`, which ranks each
    batch of `validation_data` by itself, is near 0 where these are sorted by class, and
    must not choose the best epoch. Monitor `val_map` of `RetrievalEvaluation`, which
    ranks all images, by `mode="max"`.

    **Labels** are compared, nothing else. On JAX, Keras cuts integers down to 32 bits
    on their way to the loss: number the classes
    (`np.unique(labels, return_inverse=True)[1]`) if they are larger.

    Big batches rank like the real database; `ClassBalancedSampler` fills them so that
    every query has positives. The arithmetic is float32 whatever the precision policy,
    and labels stay integers (as floats, ids above 2²⁴ would collide).

    The similarities of a batch are never held all at once: memory grows with `B`, not
    with its square, and more bins cost next to nothing. See `ap_loss`, which also
    ranks a database.

    **On several devices** the batch is that of all of them. Under
    `tf.distribute.MirroredStrategy` each ranks the images of all for its own queries,
    and loss and weights are those of one device. JAX's `DataParallel` shows the loss
    all images anyway. `tf.distribute.MultiWorkerMirroredStrategy`, which Keras 3 does
    not support, is refused.

    **What is checked, and when.** Shapes and label dtypes always. Values where they
    can be read, i.e. in eager mode, with a `ValueError`. In a graph (`model.fit`), and
    on PyTorch, no portable operation can raise: there embeddings that are not of unit
    length (squared length off by more than 0.03, or NaN) make the loss NaN instead of
    silently wrong, at a cost of `O(B D)` beside the `O(B² D)` of the similarities;
    `keras.callbacks.TerminateOnNaN()` ends the training, `run_eagerly=True` in
    `compile` names the embedding. End the model with
    `keras.layers.UnitNormalization()`, as `retrieval_model` does.

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
        block_size: the most queries whose similarities are held at once. It bounds the
            memory and changes results by rounding only; `None` chooses.
        name: name of the loss.
        dtype: `"float32"` (default) or `"float64"`.

    Raises:
        ValueError: at construction, if `num_bins` is below 2, `similarity_range` is
            empty, `block_size` is not positive, `dtype` has 16 bits or the strategy is
            for several hosts; at the call, if shapes do not fit, the batch is known to
            be of one image, labels are not integers or, in eager mode, embeddings are
            not finite and of unit length or no query has another positive than itself.

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
        block_size: int | None = None,
        name: str = "ap_loss",
        dtype: str | None = None,
    ):
        super().__init__(
            num_bins,
            similarity_range,
            exclude_self,
            block_size,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )

    def average_precision(self, counts):
        """AP_Q `(Q,)` of cumulative soft histograms `(Q, 2, M)`."""
        return average_precision_of(counts)
