"""Soft histograms by intervals against their definition."""

import keras
import numpy as np
import pytest
from gradients import (
    MANY,
    TOLERANCE,
    WIDEST,
    each_mode,
    each_mode_slowly,
    on_tensorflow,
    run,
)
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from keras_aploss.losses import histogram


def plain_counts(similarity, relevance, bins):
    """The cumulative soft histograms of one list by eq. 7: the oracle."""
    delta = (bins.high - bins.low) / (bins.num_bins - 1)
    centres = bins.high - delta * np.arange(bins.num_bins)
    inside = np.clip(similarity, bins.low, bins.high).astype("float64")
    kernel = np.maximum(1 - np.abs(inside - centres[:, None]) / delta, 0)  # (M, N)
    return np.cumsum([kernel @ relevance, kernel.sum(axis=1)], axis=1)  # (2, M)


def counts(similarity, relevance, bins, axis=0):
    interval, fraction = histogram.intervals_of(similarity, relevance, bins)
    sums = histogram.interval_sums(
        interval, histogram.contributions(fraction), bins, axis=axis
    )
    return histogram.cumulative_counts(sums, bins, fraction.dtype)


@settings(deadline=None, max_examples=min(MANY, 25))
@given(
    data=st.data(),
    num_bins=st.integers(2, 30),
    limits=st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-0.3, 0.7)]),
    axis=st.integers(0, 1),
)
def test_equals_the_definition(data, num_bins, limits, axis):
    bins = histogram.Bins(num_bins, *limits)
    similarity = data.draw(
        hnp.arrays(WIDEST, (3, 7), elements=st.floats(-1.25, 1.25, width=32))
    )
    relevance = data.draw(hnp.arrays("bool", (3, 7)))
    result = run(lambda s, r: counts(s, r, bins, axis), similarity, relevance)
    if axis == 1:
        similarity, relevance = similarity.T, relevance.T
    expected = [
        plain_counts(*one, bins) for one in zip(similarity, relevance, strict=True)
    ]
    np.testing.assert_allclose(result, expected, atol=10 * TOLERANCE)


@each_mode_slowly
@pytest.mark.parametrize("similarity", [0.6271, "all different"])
def test_sums_of_a_million_images(similarity, mode):
    size, bins = 1_000_000, histogram.Bins(20, -1.0, 1.0)
    if similarity == "all different":
        similarity = np.random.default_rng(0).uniform(-1, 1, size)
    similarity = np.full((1, size), similarity, "float32")
    relevance = np.arange(size)[None] % 3 == 0
    result = run(lambda s, r: counts(s, r, bins), similarity, relevance, mode=mode)
    assert result[0, :, -1].tolist() == [relevance.sum(), size]  # exactly
    # Position in bins has 1e-6 of rounding for each image of a list, in float32.
    np.testing.assert_allclose(
        result[0], plain_counts(similarity[0], relevance[0], bins), rtol=5e-5, atol=3
    )


@on_tensorflow  # elsewhere sums are of floats
def test_integer_sums_do_not_depend_on_the_order():
    rng = np.random.default_rng(1)
    bins = histogram.Bins(20, -1.0, 1.0)
    similarity = rng.uniform(-1, 1, (2, 5000)).astype("float32")
    relevance = rng.random((2, 5000)) < 0.1
    order = rng.permutation(5000)
    first = run(lambda s, r: counts(s, r, bins), similarity, relevance)
    again = run(
        lambda s, r: counts(s, r, bins), similarity[:, order], relevance[:, order]
    )
    np.testing.assert_array_equal(first, again)


@each_mode
def test_every_number_has_an_interval_and_beyond_the_ends_no_slope(mode):
    bins = histogram.Bins(5, -1.0, 1.0)
    similarity = np.array([[np.nan, np.inf, -np.inf, 3e38, 1.01, -1.01, 0.9, -0.9]])
    similarity = similarity.astype("float32")
    relevance = np.zeros(similarity.shape, bool)
    upstream = np.ones((1, 2, 5), "float32")

    def slopes(similarity, relevance, upstream):
        interval, _ = histogram.intervals_of(similarity, relevance, bins)
        return histogram.gather_slopes(
            histogram.slopes_of(upstream, bins), interval, bins
        )

    interval = run(
        lambda s, r: histogram.intervals_of(s, r, bins)[0],
        similarity,
        relevance,
        mode=mode,
    )
    assert interval.min() >= 0
    assert interval.max() < bins.intervals_of_a_kind
    result = run(slopes, similarity, relevance, upstream, mode=mode)[0]
    np.testing.assert_array_equal(result[3:], [0, 0, 0, bins.density, bins.density])


def test_what_is_left_out_is_in_no_count():
    bins = histogram.Bins(4, -1.0, 1.0)
    interval = keras.ops.convert_to_tensor([[0, bins.left_out, 2]], dtype="int32")
    fraction = keras.ops.convert_to_tensor([[0.0, 0.7, 0.0]], dtype="float32")
    sums = histogram.interval_sums(interval, histogram.contributions(fraction), bins)
    result = keras.ops.convert_to_numpy(
        histogram.cumulative_counts(sums, bins, "float32")
    )
    assert result[0].tolist() == [[0, 0, 0, 0], [1, 2, 2, 2]]
