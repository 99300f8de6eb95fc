r"""Average Precision with ties, as a loss: a bin is a tie, and its order is averaged.

The quantized AP (`average_precision`) gives all images of a bin one rank, the last of
the bin. Images of equal similarity have no order, though, and the AP of a ranking with
ties is the mean over their orders (He et al. 2018). With ``c_m`` images in bin ``m``,
``c⁺_m`` of them positive, and ``C_m``, ``C⁺_m`` in the bins up to it, they approximate
that mean by an integral over the ranks of the bin. With ``a = C⁺_{m-1} + 1`` and
``b = C_{m-1} + 1``, the positives that the first positive of the bin has so far, itself
included, and its rank,

    AP_T = Σ_m c⁺_m / N_q · [r (1 - g) + g a / b]
    r = (c⁺_m - 1) / (c_m - 1)     positives among the others of the bin
    g = ln(1 + x) / x, x = c_m / b     mean of (first rank / rank) over the bin

or, simplified, by the precision in the middle of the bin:

    AP_T = Σ_m c⁺_m / N_q · (C⁺_{m-1} + C⁺_m + 1) / (C_{m-1} + C_m + 1)

**Finite gradients.** ``r`` is 0/0 for the one image of a bin. The published code
divides ``max(c⁺_m - 1, 0)`` by ``max(c_m - 1, 0) + 1e-8``; soft counts come close to
one, and the gradient reaches 10⁶. Here ``r = max(c⁺_m - 1, 0) / max(c_m - 1, 1)``: in a
bin of less than two images, ``r`` rises with the part of a second image that is there.
That is the same wherever ``c_m ≥ 2`` or ``c⁺_m ≤ 1``, so at all whole counts, is never
more in between, and no slope of it exceeds 1. ``g`` is its power series near 0.

Dimension key: ``Q`` queries, ``M`` bins, ``B`` batch, ``D`` units.

Reference: He, Cakir, Bargal, Sclaroff, "Hashing as Tie-Aware Learning to Rank",
CVPR 2018, arXiv:1705.08562.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_aploss.losses.checks import check_bins
from keras_aploss.losses.listwise import ListwiseLoss, listwise_loss


def tie_aware_average_precision_of(counts, simplified=False):
    """AP_T `(Q,)` of cumulative soft histograms `(Q, 2, M)`."""
    before = ops.pad(counts[..., :-1], ((0, 0), (0, 0), (1, 0)))
    positives, images = counts[:, 0], counts[:, 1]  # C⁺_m, C_m
    positives_before, images_before = before[:, 0], before[:, 1]  # C⁺_{m-1}, C_{m-1}
    positives_here, images_here = positives - positives_before, images - images_before
    if simplified:
        precision = (positives_before + positives + 1) / (images_before + images + 1)
    else:
        a, b = positives_before + 1, images_before + 1
        r = ops.maximum(positives_here - 1, 0) / ops.maximum(images_here - 1, 1)
        g = _log1p_ratio(images_here / b)
        precision = r * (1 - g) + g * a / b
    return ops.sum(
        ops.divide_no_nan(positives_here, positives[:, -1:]) * precision, axis=1
    )


def _log1p_ratio(x):
    """ln(1 + x) / x for x ≥ 0, by its power series where the quotient loses digits."""
    is_small = x < 0.03
    small = ops.where(is_small, x, 0.0)
    series = ops.zeros_like(x)
    for n in range(9, 0, -1):  # 1 - x/2 + x²/3 - …
        series = 1 / n - small * series
    large = ops.where(is_small, 1.0, x)
    return ops.where(is_small, series, ops.log1p(large) / large)


def tie_aware_ap_loss(
    query_embeddings: Any,
    query_labels: Any,
    database_embeddings: Any = None,
    database_labels: Any = None,
    *,
    simplified: bool = False,
    num_bins: int = 20,
    similarity_range: Sequence[float] = (-1.0, 1.0),
    exclude_self: bool = False,
    block_size: int | None = None,
) -> Any:
    """One minus the tie-aware AP of each query.

    Args:
        query_embeddings: as for `ap_loss`, like all that follow.
        query_labels: see there.
        database_embeddings: see there.
        database_labels: see there.
        simplified: use the precision in the middle of each bin.
        num_bins: see there.
        similarity_range: see there.
        exclude_self: see there.
        block_size: see there.

    Returns:
        Tensor `(Q,)` of `1 - AP_T`, as for `ap_loss`.

    Raises:
        ValueError: see there.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ap_loss, tie_aware_ap_loss
    >>> query, database = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]] * 2)
    >>> values = tie_aware_ap_loss(query, [5], database, [5, 6], num_bins=3)
    >>> round(float(values[0]), 2)  # the tie's mean is (1/1 + 1/2) / 2, about ln(3) / 2
    0.45
    >>> float(ap_loss(query, [5], database, [5, 6], num_bins=3)[0])  # its last rank
    0.5
    """
    return listwise_loss(
        functools.partial(tie_aware_average_precision_of, simplified=simplified),
        query_embeddings,
        query_labels,
        database_embeddings,
        database_labels,
        bins=check_bins(num_bins, similarity_range),
        exclude_self=exclude_self,
        block_size=block_size,
    )


@keras.saving.register_keras_serializable(package="keras_aploss")
class TieAwareAPLoss(ListwiseLoss):
    """One minus the tie-aware AP of every image of a batch against the whole batch.

    Used as `APLoss`, at the same cost, and ranking the images of all devices alike:
    `MirroredStrategy` gathers them, `MultiWorkerMirroredStrategy` is refused. Where
    `APLoss` takes the images of a bin for equally late, this takes the mean over their
    orders, so that it estimates the exact AP with fewer bins (He et al. 2018).

    Args:
        num_bins: number of bins `M` of the similarity histogram, at least 2.
        similarity_range: `(low, high)`, centres of the last and first bin.
        simplified: use the precision in the middle of each bin, not the mean over it.
        exclude_self: whether a query is left out of its own list.
        reduction: as for `APLoss`, like all that follow.
        block_size: see there.
        name: name of the loss.
        dtype: `"float32"` (default) or `"float64"`.

    Raises:
        ValueError: as for `APLoss`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import TieAwareAPLoss
    >>> labels = np.array([7, 7, 8, 8])
    >>> apart = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])  # classes apart
    >>> loss = TieAwareAPLoss(simplified=True)
    >>> round(float(loss(labels, apart)), 4)
    0.0
    >>> round(float(loss(labels, apart[[0, 2, 1, 3]])), 4)  # in a tie with others
    0.3802
    """

    def __init__(
        self,
        num_bins: int = 20,
        similarity_range: Sequence[float] = (-1.0, 1.0),
        *,
        simplified: bool = False,
        exclude_self: bool = False,
        reduction: str | None = "sum_over_batch_size",
        block_size: int | None = None,
        name: str = "tie_aware_ap_loss",
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
        self.simplified = simplified

    def average_precision(self, counts):
        """AP_T `(Q,)` of cumulative soft histograms `(Q, 2, M)`."""
        return tie_aware_average_precision_of(counts, simplified=self.simplified)

    def get_config(self):
        return {**super().get_config(), "simplified": self.simplified}
