"""Several scales of an image, combined: by hand, and what must hold for any."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from keras_aploss.embeddings import combine_scales, unit_length

VALUES = st.floats(-1, 1, width=32)
SCALES = arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=VALUES)


def test_the_mean_by_hand():
    # ((3 + 1) / 2, (0 - 2) / 2) = (2, -1), of length sqrt(5)
    combined = combine_scales([[[3.0, 0.0]], [[1.0, -2.0]]])
    np.testing.assert_allclose(combined, [np.array([2, -1]) / np.sqrt(5)], rtol=1e-6)


def test_the_signed_generalized_mean_by_hand():
    # (27 + 1) / 2 = 14 and (0 - 8) / 2 = -4, and their cube roots
    combined = combine_scales([[[3.0, 0.0]], [[1.0, -2.0]]], power=3)
    roots = np.array([14 ** (1 / 3), -(4 ** (1 / 3))])
    np.testing.assert_allclose(combined, [roots / np.linalg.norm(roots)], rtol=1e-6)


def test_an_even_power_keeps_signs():
    # (4 - 1) / 2 = 1.5 and (1 - 9) / 2 = -4, and their square roots
    combined = combine_scales([[[2.0, 1.0]], [[-1.0, -3.0]]], power=2)
    roots = np.array([np.sqrt(1.5), -2])
    np.testing.assert_allclose(combined, [roots / np.linalg.norm(roots)], rtol=1e-6)


@settings(deadline=None)
@given(SCALES, st.sampled_from([None, 0.5, 1, 2, 3, 10]))
def test_length_is_one_or_zero_and_the_order_of_scales_is_free(x, power):
    combined = combine_scales(x, power=power)
    assert combined.shape == x.shape[1:]
    assert combined.dtype == np.float32
    lengths = np.linalg.norm(combined.astype(np.float64), axis=1)
    assert (np.isclose(lengths, 1, atol=1e-6) | (lengths == 0)).all()
    turned = combine_scales(x[::-1].astype(np.float64), power=power)
    # Where scales cancel nearly, the direction is that of the rounding.
    m = np.mean(np.sign(x) * np.abs(x.astype(np.float64)) ** (power or 1), axis=0)
    clear = np.linalg.norm(m, axis=1) > 1e-6
    np.testing.assert_allclose(combined[clear], turned[clear], atol=1e-3)


@settings(deadline=None)
@given(SCALES.filter(lambda x: np.abs(x[0]).max() > 0.1), st.floats(0.3, 20))
def test_equal_scales_change_nothing(x, power):
    once = x[:1]
    expected = unit_length(once[0])
    for combined in (
        combine_scales(np.repeat(once, 3, axis=0), power=power),
        combine_scales(once, power=power),
        combine_scales(once),
    ):
        np.testing.assert_allclose(combined, expected, atol=1e-6)


def test_power_one_is_the_mean_and_large_powers_approach_the_largest():
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_array_equal(combine_scales(x, power=1), combine_scales(x))
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    actual = combine_scales(x * 1e-30, power=2000)
    np.testing.assert_allclose(actual, unit_length(largest), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 5e37])
def test_unit_length_neither_overflows_nor_underflows(scale):
    x = np.array([[3, 4], [0, 0]], np.float32) * np.float32(scale)
    assert np.linalg.norm(unit_length(x)[0]) == pytest.approx(1, abs=1e-6)
    assert (unit_length(x)[1] == 0).all()


def test_sixteen_bits_are_summed_in_more():
    x = np.full((1, 4096), 100, np.float16)
    np.testing.assert_allclose(unit_length(x), 1 / 64, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="scales, images, units"):
        combine_scales(np.zeros(shape))


@pytest.mark.parametrize("power", [0, -1, np.nan, np.inf])
def test_other_powers_are_refused(power):
    with pytest.raises(ValueError, match="`power` above 0"):
        combine_scales(np.zeros((1, 1, 1)), power=power)
