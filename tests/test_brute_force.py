"""Thousands of random batches and rankings against plain float64 loops."""

import numpy as np
import pytest
from exact_rows import draw_exact_rows

from keras_aploss import (
    APLoss,
    BatchAP,
    BatchRecall,
    TripletHardLoss,
    TripletSemiHardLoss,
    evaluate_leave_one_out,
    evaluate_query_database,
)

pytestmark = pytest.mark.slow


def draw_labels(rng, size):
    """Distractors, singletons and classes of any size; at least one pair."""
    labels = rng.integers(-2, rng.integers(1, 8), size)
    labels[rng.permutation(size)[:2]] = rng.integers(0, 3)
    return labels


def draw_embeddings(rng, size):
    """Unit rows: spread, nearly equal, with copies, or with exact ties."""
    if rng.random() < 0.3:
        return draw_exact_rows(rng, size).astype("float64")
    x = rng.normal(size=(size, rng.integers(2, 9)))
    if rng.random() < 0.3:
        x = x[:1] + 0.1 * x
    if rng.random() < 0.3:
        x[rng.integers(0, size, size // 2)] = x[0]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def lists_of(labels, exclude_self):
    """Each query, the images of its list, and which of them are positives."""
    for query in np.flatnonzero(labels >= 0):
        listed = np.ones(len(labels), bool)
        listed[query] = not exclude_self
        relevance = (labels == labels[query])[listed]
        if relevance.any():
            yield query, listed, relevance


def quantized_ap(similarity, relevance, num_bins, low, high):
    """Eq. 7-11."""
    delta, above, positives, ap = (high - low) / (num_bins - 1), 0.0, 0.0, 0.0
    for m in range(num_bins):
        distance = np.abs(np.clip(similarity, low, high) - (high - m * delta))
        weight = np.maximum(1 - distance / delta, 0)
        above += weight.sum()
        positives += weight[relevance].sum()
        if above:
            ap += positives / above * weight[relevance].sum() / relevance.sum()
    return ap


@pytest.mark.parametrize("seed", range(4))
def test_the_ap_loss(seed):
    rng = np.random.default_rng(seed)
    for case in range(100):
        size = int(rng.integers(2, 30))
        labels, x = draw_labels(rng, size), draw_embeddings(rng, size)
        x[~x.any(axis=1), 0] = 1  # the loss has no rows of zeros
        num_bins, exclude_self = int(rng.integers(2, 30)), bool(rng.integers(2))
        low, high = [(-1.0, 1.0), (0.0, 1.0), (-0.3, 0.7)][rng.integers(3)]
        values = [
            1 - quantized_ap(x[listed] @ x[query], relevance, num_bins, low, high)
            for query, listed, relevance in lists_of(labels, exclude_self)
        ]
        loss = APLoss(num_bins, (low, high), exclude_self, dtype="float64")
        actual = float(loss(labels, x))
        assert actual == pytest.approx(np.mean(values), abs=1e-9), case


@pytest.mark.parametrize("seed", range(2))
def test_the_triplet_losses(seed):
    rng = np.random.default_rng(seed)
    for case in range(50):
        size = int(rng.integers(3, 20))
        labels = draw_labels(rng, size)
        x = rng.normal(size=(size, 3))
        labels[labels.argmax()] = 99  # a negative of all others
        pair = np.flatnonzero(labels >= 0)
        if np.unique(labels[pair], return_counts=True)[1].max() < 2:
            continue
        distance = np.linalg.norm(x[:, None] - x[None], axis=2)
        semi, hard = [], []
        for query in pair:
            negatives = distance[query, labels != labels[query]]
            own = (labels == labels[query]) & (np.arange(size) != query)
            for d in distance[query, own]:
                beyond = negatives[negatives > d]
                n = beyond.min() if len(beyond) else negatives.max()
                semi.append(max(1 + d - n, 0))
            farthest = distance[query, own].max(initial=0)
            hard.append(max(1 + farthest - negatives.min(), 0))
        for loss, values in ((TripletSemiHardLoss, semi), (TripletHardLoss, hard)):
            actual = float(loss(dtype="float64")(labels, x))
            assert actual == pytest.approx(np.mean(values), abs=1e-9), case


def exact_metrics(similarity, relevance, k):
    """AP, recall@k and MAP@R of one query; ties in the worst order but for the AP."""
    positives = np.sort(similarity[relevance])[::-1]
    negatives = similarity[~relevance]
    above = np.array([(negatives >= s).sum() for s in positives])
    tied = np.array([(positives >= s).sum() for s in positives])
    ranks = np.arange(1, len(positives) + 1) + above
    at_r = np.arange(1, len(positives) + 1) / ranks * (ranks <= len(positives))
    return np.mean(tied / (tied + above)), float(ranks[0] <= k), at_r.mean()


def in_float32(x):
    """The similarities that an evaluation ranks: float32 ties would else be lost."""
    x = np.asarray(x, np.float32)
    return x, x.astype(np.float64)


def draw_ranking(rng):
    """Labels, embeddings in float32 and float64, a cut-off, and metrics by query."""
    size, k = int(rng.integers(2, 40)), int(rng.integers(1, 6))
    labels = draw_labels(rng, size)
    x, wide = in_float32(draw_exact_rows(rng, size))
    rows = [
        exact_metrics(wide[listed] @ wide[query], relevance, k)
        for query, listed, relevance in lists_of(labels, True)
    ]
    return labels, x, wide, k, rows


@pytest.mark.parametrize("seed", range(4))
def test_the_evaluation(seed):
    rng = np.random.default_rng(seed)
    for _ in range(500):
        labels, x, wide, k, rows = draw_ranking(rng)
        actual = evaluate_leave_one_out(x, labels, ks=(k,)).metrics
        found = [actual[name] for name in ("map", f"recall_at_{k}", "map_at_r")]
        np.testing.assert_allclose(found, np.mean(rows, axis=0), atol=1e-12)

        kind = rng.integers(0, 3, (int(rng.integers(1, 6)), len(labels)))
        kind[0, 0] = 1
        queries, wide_queries = in_float32(draw_exact_rows(rng, len(kind)))
        rows = [
            exact_metrics((wide @ query)[row < 2], (row == 1)[row < 2], k)
            for query, row in zip(wide_queries, kind, strict=True)
            if (row == 1).any()
        ]
        parts = [[np.flatnonzero(row == part) for row in kind] for part in (1, 2)]
        actual = evaluate_query_database(queries, x, *parts, ks=(k,)).metrics
        found = [actual[name] for name in ("map", f"recall_at_{k}", "map_at_r")]
        np.testing.assert_allclose(found, np.mean(rows, axis=0), atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_the_metrics_of_a_batch(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        labels, x, _, k, rows = draw_ranking(rng)
        found = []
        for metric in (BatchAP(), BatchRecall(k)):
            metric.update_state(labels, x)
            found.append(float(metric.result()))
        np.testing.assert_allclose(found, np.mean(rows, axis=0)[:2], atol=1e-6)
