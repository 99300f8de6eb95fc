r"""Soft histograms of similarities, as sums over cells; their gradient, a look-up.

The ``M`` bin centres ``b_m = high - (m - 1) Δ`` cut the line of similarities into the
``M - 1`` intervals between neighbours and the two ends outside. A similarity in the
interval below ``b_m`` gives ``1 - f`` to bin ``m`` and its *share*
``f = (b_m - s) / Δ`` to the next bin; beyond an end it gives all to the end bin. Down
the ranking, the *cumulative* soft histogram is therefore

    C_m = (how many lie above b_m or in the interval below it) - (their shares there)

so a count and a sum of shares per interval are all that a ranking needs: one
scatter-add per similarity, whatever the number of bins. And as a similarity moves
``C_m`` of its own interval alone, ``∂C_m/∂s = 1/Δ``, the gradient of whatever is made
of the ``C_m`` is the same for all similarities of an interval: a table look-up.

Positives and negatives are counted apart: a **cell** is an interval and a kind. The
cells of a query are its ``M + 1`` negative ones from the top down, its ``M + 1``
positive ones, and one for what is left out of the list.

On TensorFlow, count and shares of a cell are one 64-bit integer in fixed point,
``count · 2⁴² + shares · 2²⁰``. Sums of integers are exact in any order, for lists of up
to 2²¹ images, where a float32 sum of a million equal shares drifts by percents. The
other backends cannot (JAX has no such integers by default, and `segment_sum` of Keras
on PyTorch adds in float32), and for float64 20 bits are few: there they are a pair of
floats, summed in groups.

Dimension key: ``Q`` queries, ``N`` images of a list, ``M`` bins, ``C = 2 (M + 1) + 1``
cells.
"""

from typing import NamedTuple

import keras
from keras import ops

SHARE_BITS = 20
COUNT_SHIFT = 42
# A float32 sum of this many shares is good to 1e-5 of the count even if all are equal.
GROUP_SIZE = 256


class Bins(NamedTuple):
    """Bin centres from `high` down to `low`.

    >>> Bins(20, -1.0, 1.0).num_cells
    43
    """

    num_bins: int
    low: float
    high: float

    @property
    def density(self):
        """Bins per unit of similarity, 1/Δ."""
        return (self.num_bins - 1) / (self.high - self.low)

    @property
    def num_intervals(self):
        """Intervals between centres, and the two ends outside."""
        return self.num_bins + 1

    @property
    def num_cells(self):
        """Intervals for negatives and for positives, and the cell of the left out."""
        return 2 * self.num_intervals + 1

    @property
    def left_out(self):
        """The cell of what is in no list."""
        return self.num_cells - 1


def cells_of(similarity, relevance, bins):
    """Return the cell of each similarity (int32) and its share, both `(Q, N)`."""
    return cells_of_scaled(similarity * bins.density, relevance, bins)


def cells_of_scaled(scaled, relevance, bins):
    """`cells_of` similarities that have been multiplied by `bins.density`."""
    position = (bins.high * bins.density + 1.0) - scaled
    upper = ops.floor(position)
    # Clipped as an integer: there a NaN is one, too.
    interval = ops.clip(ops.cast(upper, "int32"), 0, bins.num_bins)
    cell = interval + ops.where(relevance, bins.num_intervals, 0)
    return cell, position - upper


def histogram(cell, entries, bins, axis=0):
    """Return the sums of entries in the cells of each list, `(lists, C, …)`.

    The lists are the rows of `cell` if `axis` is 0 and its columns if it is 1. The
    numbers can be added, whatever they are: `cumulative_counts` reads them.
    """
    num_lists, length = ops.shape(cell)[axis], ops.shape(cell)[1 - axis]
    in_groups = len(entries.shape) == 3
    num_groups = (length - 1) // GROUP_SIZE + 1 if in_groups else 1
    list_id = ops.expand_dims(ops.arange(num_lists, dtype="int32"), 1 - axis)
    if in_groups:
        group = ops.arange(length, dtype="int32") // GROUP_SIZE
        list_id = list_id * num_groups + ops.expand_dims(group, axis)
    tail = tuple(entries.shape[2:])
    sums = ops.segment_sum(
        ops.reshape(entries, (-1, *tail)),
        ops.reshape(list_id * bins.num_cells + cell, (-1,)),
        num_segments=num_lists * num_groups * bins.num_cells,
    )
    if not in_groups:
        return ops.reshape(sums, (num_lists, bins.num_cells))
    sums = ops.reshape(sums, (num_lists, num_groups, bins.num_cells, *tail))
    return ops.sum(sums, axis=1)


def histogram_of_zero(bins, dtype):
    """`histogram` of a list with one negative, of similarity 0: `(1, C, …)`."""
    zero = ops.zeros((1, 1), dtype=dtype)
    cell, share = cells_of(zero, zero > 0, bins)
    return histogram(cell, entries_of(share), bins)


def entries_of(share):
    """What a similarity adds to its cell: an integer, or the pair (1, share)."""
    is_float32 = keras.backend.standardize_dtype(share.dtype) == "float32"
    if is_float32 and keras.backend.backend() == "tensorflow":
        fixed_point = ops.cast(ops.round(share * 2.0**SHARE_BITS), "int32")
        return ops.cast(fixed_point, "int64") + (1 << COUNT_SHIFT)
    return ops.stack([ops.ones_like(share), share], axis=-1)


def cumulative_counts(sums, bins, dtype):
    """Return the cumulative soft histograms of positives and of all images.

    Args:
        sums: `(Q, C, …)`, as from `histogram`.
        bins: the `Bins`.
        dtype: float type of the result.

    Returns:
        Tensor `(Q, 2, M)`: `C⁺_m` and `C_m`. The last ones are the whole numbers of
        positives and of images, exact up to 2²⁴ in float32.
    """
    sums = sums[:, :-1]  # without the left out
    packed = len(sums.shape) == 2
    if packed:
        # In units of 2⁻²⁰ image, so that nothing is rounded before the difference.
        share = ops.bitwise_and(sums, (1 << COUNT_SHIFT) - 1)
        count = ops.left_shift(ops.right_shift(sums, COUNT_SHIFT), SHARE_BITS)
    else:
        count, share = sums[..., 0], sums[..., 1]
    count, share = (_positives_and_all(part, bins) for part in (count, share))
    # The share in the lower end is none: all of it is in the last bin.
    share = ops.pad(share[..., 1:-1], ((0, 0), (0, 0), (0, 1)))
    cumulative = ops.cast(ops.cumsum(count, axis=-1)[..., 1:] - share, dtype)
    return cumulative * 2.0**-SHARE_BITS if packed else cumulative


def _positives_and_all(part, bins):
    kinds = ops.reshape(part, (-1, 2, bins.num_intervals))
    return ops.stack([kinds[:, 1], kinds[:, 0] + kinds[:, 1]], axis=1)  # (Q, 2, M + 1)


def slopes_of(upstream, bins):
    """Derivative with respect to a similarity, for each cell that it may be in.

    Args:
        upstream: `(Q, 2, M)`: derivatives with respect to `cumulative_counts`.
        bins: the `Bins`.

    Returns:
        Tensor `(Q, C)`, 0 beyond the ends and for the left out.
    """
    slope = upstream[..., :-1] * bins.density
    slope = ops.pad(slope, ((0, 0), (0, 0), (1, 1)))  # (Q, 2, M + 1)
    of_positives, of_all = slope[:, 0], slope[:, 1]
    left_out = ops.zeros_like(of_all[:, :1])
    return ops.concatenate([of_all, of_all + of_positives, left_out], axis=1)


def look_up(slopes, cell, bins, axis=0):
    """The slope of each similarity, `(Q, N)`; `axis` as for `histogram`."""
    num_lists = ops.shape(cell)[axis]
    list_id = ops.expand_dims(ops.arange(num_lists, dtype="int32"), 1 - axis)
    return ops.take(ops.reshape(slopes, (-1,)), list_id * bins.num_cells + cell)
