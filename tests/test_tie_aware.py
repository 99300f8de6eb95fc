"""The tie-aware AP against golden files, the published formula and bounds."""

import keras
import numpy as np
import pytest
from gradients import (
    MANY,
    WIDEST,
    each_mode_slowly,
    normalize,
    run,
    slow_on_jax,
    value_and_gradients,
)
from hypothesis import given, settings, strategies as st
from published import CASES, golden, golden_bins

from keras_aploss import TieAwareAPLoss, tie_aware_ap_loss
from keras_aploss.losses.tie_aware import tie_aware_average_precision_of


def soft_histograms(case):
    """`c_m` and `c⁺_m` of each query, `(2, Q, M)`, by their definition."""
    x, labels = golden(case, "embeddings"), golden(case, "labels")
    low, high = golden(case, "range")
    num_bins = int(golden(case, "num_bins"))
    delta = (high - low) / (num_bins - 1)
    centres = high - delta * np.arange(num_bins)
    distance = np.abs(np.clip(x @ x.T, low, high)[..., None] - centres)
    kernel = np.maximum(1 - distance / delta, 0)  # (Q, N, M)
    relevance = labels[:, None] == labels
    return kernel.sum(axis=1), (kernel * relevance[..., None]).sum(axis=1)


def published(images, positives):
    """The published full form for one query, from its counts per bin."""
    before, positives_before = (
        np.cumsum(counts) - counts for counts in (images, positives)
    )
    r = np.maximum(positives - 1, 0) / (np.maximum(images - 1, 0) + 1e-8)
    logarithm = np.log((before + images + 1) / (before + 1))
    brackets = images * r + (positives_before + 1 - r * (before + 1)) * logarithm
    return np.sum(positives * brackets / (images + 1e-8)) / positives.sum()


@each_mode_slowly
@pytest.mark.parametrize("case", CASES)
def test_simplified_values_and_gradients_of_the_published_code(case, mode):
    labels = golden(case, "labels")
    x = golden(case, "embeddings").astype(WIDEST)
    values = run(
        lambda x: tie_aware_ap_loss(x, labels, simplified=True, **golden_bins(case)),
        x,
        mode=mode,
    )
    tolerance = 1e-5 if WIDEST == "float32" else 1e-9
    np.testing.assert_allclose(
        1 - values, golden(case, "tap_simplified"), atol=tolerance
    )
    loss = TieAwareAPLoss(simplified=True, dtype=WIDEST, **golden_bins(case))
    _, (gradient,) = value_and_gradients(
        lambda x: loss(labels, normalize(x)),
        golden(case, "unnormalized").astype(WIDEST),
        mode=mode,
    )
    expected = golden(case, "tap_simplified_loss_grad_unnormalized")
    scale = max(np.linalg.norm(expected), 1e-2)
    assert np.linalg.norm(gradient - expected) < 10 * tolerance * scale


@pytest.mark.parametrize("case", CASES)
def test_full_form_is_the_published_one_where_no_bin_has_one_to_two_images(case):
    images, positives = soft_histograms(case)
    differs = ((images > 1) & (images < 2) & (positives > 1)).any(axis=1)
    ap = 1 - run(
        lambda x: tie_aware_ap_loss(x, golden(case, "labels"), **golden_bins(case)),
        golden(case, "embeddings").astype(WIDEST),
    )
    expected = golden(case, "tap")
    assert not differs.all()
    np.testing.assert_allclose(ap[~differs], expected[~differs], atol=1e-5)
    assert np.all(ap <= expected + 1e-5)
    assert np.all(ap >= expected - 0.1)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 20))
@given(
    counts=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 40)), min_size=1, max_size=8
    )
)
def test_full_form_is_the_published_one_at_whole_counts(counts):
    positives, negatives = np.array(counts).T
    images = positives + negatives
    if positives.sum() == 0:
        return
    cumulative = np.cumsum([positives, images], axis=1)[None].astype(WIDEST)
    ap = run(tie_aware_average_precision_of, cumulative)
    assert ap[0] == pytest.approx(published(images, positives), abs=1e-5)


@slow_on_jax
@settings(deadline=None, max_examples=min(MANY, 20))
@given(
    positives=st.lists(st.floats(0, 3, width=32), min_size=1, max_size=6),
    negatives=st.lists(st.floats(0, 3, width=32), min_size=6, max_size=6),
    simplified=st.booleans(),
)
def test_gradient_to_counts_is_bounded(positives, negatives, simplified):
    positives = np.array(positives)
    total = positives.sum()
    if total < 1:  # no list has less than one positive, or none
        return
    images = positives + negatives[: len(positives)]
    cumulative = np.cumsum([positives, images], axis=1)[None].astype(WIDEST)
    _, (gradient,) = value_and_gradients(
        lambda counts: keras.ops.sum(
            tie_aware_average_precision_of(counts, simplified=simplified)
        ),
        cumulative,
    )
    # With r, g and a/b at most 1, and the slopes of r, g and ln at most 1.
    assert np.abs(gradient).max() <= 6


def plain(counts):
    """The full form for one query in float64, without the power series."""
    positives, images = np.diff(counts[0], axis=1, prepend=0)
    positives_before, before = counts[0] - [positives, images]
    r = np.maximum(positives - 1, 0) / np.maximum(images - 1, 1)
    g = np.log1p(images / (before + 1)) / (images / (before + 1))
    precision = r * (1 - g) + g * (positives_before + 1) / (before + 1)
    return np.sum(positives * precision) / positives.sum()


@slow_on_jax
@pytest.mark.parametrize("x", [1e-6, 0.01, 0.0299, 0.0301, 1.0, 1e5])
def test_gradient_equals_finite_differences_near_and_far_from_the_series(x):
    # One bin of x images for 1 before it: the ratio of the logarithm is at x / 2.
    cumulative = np.array([[[1.0, 1.0 + x / 2], [1.0, 1.0 + x]]])
    direction = np.array([[[0.0, 0.3], [0.0, 1.0]]])
    _, (gradient,) = value_and_gradients(
        lambda counts: keras.ops.sum(tie_aware_average_precision_of(counts)),
        cumulative.astype(WIDEST),
    )
    step = 1e-7 if x < 1 else 1e-3

    high, low = (plain(cumulative + sign * step * direction) for sign in (1, -1))
    expected = (high - low) / (2 * step)
    tolerance = 1e-6 if WIDEST == "float64" else 1e-3
    assert np.sum(gradient * direction) == pytest.approx(
        expected, rel=tolerance, abs=tolerance
    )


def test_config_round_trip():
    loss = TieAwareAPLoss(
        25, (0, 1), simplified=True, exclude_self=True, reduction="sum", block_size=7
    )
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.simplified
    assert again.block_size == 7
