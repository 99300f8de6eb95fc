r"""Soft histograms of similarities as sums over intervals, with a closed-form gradient.

The ``M`` bin centres ``b_m = high - (m - 1) Δ`` cut the line of similarities into the
``M - 1`` intervals between neighbours and the two ends outside. A similarity in the
interval below ``b_m`` contributes ``1 - f`` to bin ``m`` and the fraction
``f = (b_m - s) / Δ`` to the next bin; beyond an end it contributes 1 to the end bin.
Down the ranking, the *cumulative* soft histogram is therefore

    C_m = (how many lie above b_m or in the interval below it) - (their fractions there)

so a count and a sum of fractions per interval are all that a ranking needs: one
scatter-add per similarity, whatever the number of bins. And as a similarity moves
``C_m`` of its own interval alone, ``∂C_m/∂s = 1/Δ``, the gradient of whatever is made
of the ``C_m`` is the same for all similarities of an interval: one gather. A similarity
at a bin centre belongs to the interval below it, so its gradient is the limit from
below.

Intervals are counted apart for negatives and positives. They are numbered from the top
down: ``M + 1`` for negatives, ``M + 1`` for positives, and one more for images that are
left out of the list.

On TensorFlow, the count and the fractions of an interval are one 64-bit integer in
fixed point, ``count · 2⁴² + fractions · 2²⁰``. Sums of integers are exact in any order,
for lists of up to 2²¹ images, where a float32 sum of a million equal fractions drifts
by percents. The other backends cannot (JAX has no such integers by default, and
`segment_sum` of Keras on PyTorch adds in float32), and for float64 20 bits are few:
there they are a pair of floats, summed in groups.

Dimension key: ``Q`` queries, ``N`` images of a list, ``M`` bins, ``I = 2 (M + 1) + 1``
intervals.
"""

from typing import NamedTuple

import keras
from keras import ops

FRACTION_BITS = 20
COUNT_SHIFT = 42
# A float32 sum of so many fractions is good to 1e-5 of the count even if all are equal.
GROUP_SIZE = 256


class Bins(NamedTuple):
    """Bin centres from `high` down to `low`.

    >>> Bins(20, -1.0, 1.0).num_intervals
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
    def intervals_of_a_kind(self):
        """Intervals between centres, and the two ends outside: M + 1."""
        return self.num_bins + 1

    @property
    def num_intervals(self):
        """Intervals of negatives and of positives, and one for the images left out."""
        return 2 * self.intervals_of_a_kind + 1

    @property
    def left_out(self):
        """The interval of images that are not in the list."""
        return self.num_intervals - 1


def intervals_of(similarity, relevance, bins):
    """Return the interval (int32) and the fraction of each similarity `(Q, N)`."""
    return intervals_of_scaled(similarity * bins.density, relevance, bins)


def intervals_of_scaled(scaled, relevance, bins):
    """`intervals_of` similarities that have been multiplied by `bins.density`."""
    position = (bins.high * bins.density + 1.0) - scaled
    upper = ops.floor(position)
    # Clipped as an integer: there a NaN is one, too.
    interval = ops.clip(ops.cast(upper, "int32"), 0, bins.num_bins)
    interval = interval + ops.cast(relevance, "int32") * bins.intervals_of_a_kind
    return interval, position - upper


def contributions(fraction):
    """Return the summands of similarities: integers, or pairs (1, fraction)."""
    is_float32 = keras.backend.standardize_dtype(fraction.dtype) == "float32"
    if is_float32 and keras.backend.backend() == "tensorflow":
        fixed_point = ops.cast(ops.round(fraction * 2.0**FRACTION_BITS), "int32")
        return ops.cast(fixed_point, "int64") + (1 << COUNT_SHIFT)
    return ops.stack([ops.ones_like(fraction), fraction], axis=-1)


def interval_sums(interval, contribution, bins, axis=0):
    """Return the sums of contributions to the intervals of each list, `(lists, I, …)`.

    The lists are the rows of `interval` if `axis` is 0 and its columns if it is 1. Sums
    of parts of a list can be added up; `cumulative_counts` reads them.
    """
    num_lists, length = ops.shape(interval)[axis], ops.shape(interval)[1 - axis]
    in_groups = len(contribution.shape) == 3
    num_groups = (length - 1) // GROUP_SIZE + 1 if in_groups else 1
    list_id = ops.expand_dims(ops.arange(num_lists, dtype="int32"), 1 - axis)
    if in_groups:
        group = ops.arange(length, dtype="int32") // GROUP_SIZE
        list_id = list_id * num_groups + ops.expand_dims(group, axis)
    tail = tuple(contribution.shape[2:])
    sums = ops.segment_sum(
        ops.reshape(contribution, (-1, *tail)),
        ops.reshape(list_id * bins.num_intervals + interval, (-1,)),
        num_segments=num_lists * num_groups * bins.num_intervals,
    )
    if not in_groups:
        return ops.reshape(sums, (num_lists, bins.num_intervals))
    sums = ops.reshape(sums, (num_lists, num_groups, bins.num_intervals, *tail))
    return ops.sum(sums, axis=1)


def interval_sums_of_zero(bins, dtype):
    """`interval_sums` of a list with one negative, of similarity 0: `(1, I, …)`."""
    zero = ops.zeros((1, 1), dtype=dtype)
    interval, fraction = intervals_of(zero, zero > 0, bins)
    return interval_sums(interval, contributions(fraction), bins)


def cumulative_counts(sums, bins, dtype):
    """Return the cumulative soft histograms of positives and of all images.

    Args:
        sums: `(Q, I, …)`, as from `interval_sums`.
        bins: the `Bins`.
        dtype: float type of the result.

    Returns:
        Tensor `(Q, 2, M)`: `C⁺_m` and `C_m`. The last ones are the whole numbers of
        positives and of images, exact up to 2²⁴ in float32.
    """
    sums = sums[:, :-1]  # without the images left out
    packed = len(sums.shape) == 2
    if packed:
        # In units of 2⁻²⁰ image, so that nothing is rounded before the difference.
        fraction = ops.bitwise_and(sums, (1 << COUNT_SHIFT) - 1)
        count = ops.left_shift(ops.right_shift(sums, COUNT_SHIFT), FRACTION_BITS)
    else:
        count, fraction = sums[..., 0], sums[..., 1]
    count, fraction = (_positives_and_all(part, bins) for part in (count, fraction))
    # The fraction in the lower end is none: all of it is in the last bin.
    fraction = ops.pad(fraction[..., 1:-1], ((0, 0), (0, 0), (0, 1)))
    cumulative = ops.cast(ops.cumsum(count, axis=-1)[..., 1:] - fraction, dtype)
    return cumulative * 2.0**-FRACTION_BITS if packed else cumulative


def _positives_and_all(part, bins):
    kinds = ops.reshape(part, (-1, 2, bins.intervals_of_a_kind))
    return ops.stack([kinds[:, 1], kinds[:, 0] + kinds[:, 1]], axis=1)  # (Q, 2, M + 1)


def slopes_of(upstream, bins):
    """Derivative with respect to a similarity, for each interval that it may be in.

    Args:
        upstream: `(Q, 2, M)`: derivatives with respect to `cumulative_counts`.
        bins: the `Bins`.

    Returns:
        Tensor `(Q, I)`, 0 beyond the ends and for images left out.
    """
    slope = upstream[..., :-1] * bins.density
    slope = ops.pad(slope, ((0, 0), (0, 0), (1, 1)))  # (Q, 2, M + 1)
    of_positives, of_all = slope[:, 0], slope[:, 1]
    left_out = ops.zeros_like(of_all[:, :1])
    return ops.concatenate([of_all, of_all + of_positives, left_out], axis=1)


def gather_slopes(slopes, interval, bins, axis=0):
    """The slope of each similarity, `(Q, N)`; `axis` as for `interval_sums`."""
    num_lists = ops.shape(interval)[axis]
    list_id = ops.expand_dims(ops.arange(num_lists, dtype="int32"), 1 - axis)
    return ops.take(ops.reshape(slopes, (-1,)), list_id * bins.num_intervals + interval)
