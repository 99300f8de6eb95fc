import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_aploss.report.canvas import GREEN, PALETTE, RED
from keras_aploss.report.charts import draw_curves, draw_histogram, nice_ticks


def pixels_of(picture, color):
    color = np.array(list(bytes.fromhex(color[1:])))
    return (np.abs(np.asarray(picture).astype(int) - color) <= 2).all(-1)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_few_even_and_inside(low, span, most):
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert len(ticks) <= most + 1
    slack = 1e-6 * (high - low) + 1e-9
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if len(ticks) > 2 and span > 1e-3 * abs(low):
        steps = np.diff(ticks)
        assert steps.max() == pytest.approx(steps.min(), rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_a_rising_curve_rises_and_a_falling_one_falls():
    x = np.linspace(0.1, 0.9, 20)
    picture = draw_curves({"falls": x[::-1], "rises": x})
    for color, sign in ((PALETTE[0], 1), (PALETTE[1], -1)):
        rows, columns = np.nonzero(pixels_of(picture, color)[60:])
        assert np.corrcoef(rows, columns)[0, 1] * sign > 0.95


def test_nan_leaves_a_gap():
    values = np.full(50, 0.5)
    whole = pixels_of(draw_curves({"a": values}), PALETTE[0])[60:]
    values[20:30] = np.nan
    broken = pixels_of(draw_curves({"a": values}), PALETTE[0])[60:]
    assert broken.any(0).sum() == pytest.approx(0.8 * whole.any(0).sum(), rel=0.05)


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [np.nan], [3e-5, 1e-5], [-4, 9]])
def test_degenerate_curves_are_drawn(values):
    assert draw_curves({"a": values}, width=360).size == (360, 200)


def test_curves_that_do_not_fit_are_refused():
    for curves in ({}, {"a": []}, {"a": [1], "b": [1, 2]}):
        with pytest.raises(ValueError, match="curves of one length"):
            draw_curves(curves)
    with pytest.raises(ValueError, match="one position for each value"):
        draw_curves({"a": [1, 2]}, x=[0])


def test_histogram_shows_each_kind_at_its_similarities():
    centers = np.linspace(1, -1, 20)  # descending, as the loss has them
    positives, negatives = np.zeros(20), np.zeros(20)
    positives[2], negatives[15] = 3.0, 1000.0
    picture = draw_histogram(centers, positives, negatives)
    # Below the legend, above the axis, where the bars stand.
    green = np.nonzero(pixels_of(picture, GREEN)[60:300])[1].mean() / picture.width
    red = np.nonzero(pixels_of(picture, RED)[60:300])[1].mean() / picture.width
    assert green > 0.75
    assert red < 0.4


def test_histogram_compares_shares_not_counts():
    centers = np.linspace(-1, 1, 5)
    one = draw_histogram(centers, [0, 0, 0, 1, 1], [1, 1, 0, 0, 0])
    many = draw_histogram(centers, [0, 0, 0, 1, 1], [9, 9, 0, 0, 0])
    np.testing.assert_array_equal(np.asarray(one), np.asarray(many))


def test_histogram_without_positives_is_drawn():
    assert draw_histogram([-1, 0, 1], [0, 0, 0], [1, 2, 3]).size == (720, 400)


def test_histogram_refuses_counts_of_other_bins():
    with pytest.raises(ValueError, match="two counts for each"):
        draw_histogram([-1, 1], [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least two bins"):
        draw_histogram([1], [1], [1])
