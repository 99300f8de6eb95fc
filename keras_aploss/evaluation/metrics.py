"""Exact metrics of rankings: AP, recall@k, precision@k, MAP@R.

Everything follows from two counts. Leave the query itself and its junk out, and take
its R positives in descending similarity. For the i-th of them (i = 1..R), let
`above_i` be the number of negatives whose similarity is **at least** its own, and
`tied_i >= i` the number of positives for which that holds. Then

    rank_i        = i + above_i                      tied negatives come first
    precision_i   = i / rank_i

    AP, step      = mean of tied_i / (tied_i + above_i)
    AP, trapezoid = mean of (before_i + precision_i) / 2
                    with before_i = (i - 1) / (rank_i - 1), and 1 at rank 1

    hits_k        = number of ranks <= k
    recall@k      = 1 if hits_k > 0, else 0
    precision@k   = hits_k / k
    mP@k          = hits_k / min(rank_R, k)                    revisited Oxford, Paris
    mAP@k         = sum of precision_i at ranks <= k, over min(R, k)      Landmarks v2
    MAP@R         = mAP@k at k = R

Ties. Equal similarities form one threshold in the step AP, as in scikit-learn's
`average_precision_score`. The numbers made of ranks put tied negatives before tied
positives: a collapsed model, all similarities equal, must not look good. Neither rule
depends on the order of the images. A list shorter than k leaves k as the divisor.

Dimension key: Q queries, N database images, P positives of one query.

References: Radenović et al., "Revisiting Oxford and Paris", 2018 (trapezoid, junk,
mP@k); Musgrave et al., "A Metric Learning Reality Check", 2020 (MAP@R); Weyand et al.,
"Google Landmarks Dataset v2", 2020 (mAP@k).
"""

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_aploss.evaluation.curves import interpolated_precision
from keras_aploss.evaluation.inputs import check_matrix

# Counting directly takes one pass over the row per positive; binning first costs about
# as much as this many passes (measured, rows of 20,000 and 100,000).
_MAX_PASSES = 32


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalResult:
    """The results of an evaluation: AP of each query, mean metrics, mean curve.

    Attributes:
        average_precision: `(Q,)` float64, NaN for a query without positives.
        metrics: means over the queries with positives: `map`, `map_at_r` and, for each
            k, `recall_at_k`, `precision_at_k`, `mp_at_k` and `map_at_k`.
        precision_at_recall: `(101,)` float64, the curve of the mean interpolated
            precision at recall 0, 0.01, ..., 1; see `interpolated_precision`.

    Example:
    The second query has no positive: no AP, and no part in the means.

    >>> from keras_aploss.evaluation import evaluate_similarity
    >>> similarity, relevance = [[0.9, 0.1]] * 2, [[False, True], [False, False]]
    >>> result = evaluate_similarity(similarity, relevance, ks=(1,))
    >>> result.average_precision, result.num_queries
    (array([0.5, nan]), 1)
    >>> result.metrics["map"], result.metrics["recall_at_1"]
    (0.5, 0.0)
    >>> result.precision_at_recall[[0, 50, 100]]
    array([0.5, 0.5, 0.5])
    """

    average_precision: np.ndarray
    metrics: dict[str, float]
    precision_at_recall: np.ndarray

    @property
    def num_queries(self) -> int:
        """The number of queries with positives: those behind the means."""
        return int(np.count_nonzero(~np.isnan(self.average_precision)))


def evaluate_similarity(
    similarity,
    relevance,
    *,
    junk=None,
    ks: Sequence[int] = (1, 5, 10),
    interpolation: str = "step",
) -> RetrievalResult:
    """Measure a similarity matrix, for instance one that was re-ranked.

    Args:
        similarity: `(Q, N)` finite numbers, larger is more alike. They are compared in
            their own precision.
        relevance: `(Q, N)` booleans, true for the positives of the query.
        junk: `(Q, N)` booleans, true for what is taken out of the ranking.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`.

    Example:
    >>> from keras_aploss.evaluation import evaluate_similarity
    >>> relevance = [[True, False, True]]
    >>> evaluate_similarity([[0.9, 0.5, 0.1]], relevance, ks=(2,)).metrics
    {'map': 0.83..., 'map_at_r': 0.5, 'recall_at_2': 1.0, 'precision_at_2': 0.5,
     'mp_at_2': 0.5, 'map_at_2': 0.5}
    """
    counts = count_rows(_matrix_rows(similarity, relevance, junk))
    return evaluate_counts(counts, len(similarity), ks, interpolation)


def average_precision(
    similarity, relevance, *, junk=None, interpolation: str = "step"
) -> np.ndarray:
    """The `(Q,)` APs of a `(Q, N)` similarity matrix, NaN where nothing is relevant.

    Arguments as for `evaluate_similarity`.

    Example:
    A negative is tied with the only positive. The trapezoid form also sees the
    precision before the positive, which is 0.

    >>> from keras_aploss.evaluation import average_precision
    >>> average_precision([[0.5, 0.5]], [[True, False]])
    array([0.5])
    >>> average_precision([[0.5, 0.5]], [[True, False]], interpolation="trapezoid")
    array([0.25])
    """
    _check_interpolation(interpolation)
    values = np.full(len(similarity), np.nan)
    counts = count_rows(_matrix_rows(similarity, relevance, junk))
    for queries, measured in _measure(counts, np.empty(0, np.int64), interpolation):
        values[queries] = measured[:, 0]
    return values


def count_rows(
    rows: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Reduce rows of similarities to what the metrics need of them.

    `rows` yields a query, its `(N,)` similarities, the indices of its positives, at
    least one, and those to leave out; the result is for `evaluate_counts`.
    """
    for query, row, positives, left_out in rows:
        yield query, *count_row(row, positives, left_out)


def count_row(
    row: np.ndarray, positives: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The similarities of the positives, ascending, and `above` of each: `(P,)`.

    The row is changed while it is counted, and is then as before.
    """
    kept = row[positives], row[left_out]
    row[positives] = -np.inf
    row[left_out] = -np.inf
    thresholds = np.sort(kept[0])
    above = count_at_or_above(row, thresholds)
    row[positives], row[left_out] = kept
    return thresholds, above


def evaluate_counts(
    counts: Iterable[tuple[int, np.ndarray, np.ndarray]],
    num_queries: int,
    ks: Sequence[int],
    interpolation: str,
) -> RetrievalResult:
    """Measure one query after the other.

    Args:
        counts: yields a query, the similarities of its positives, ascending, `(P,)`,
            and for each of them the number `above` of negatives that reach it, `(P,)`.
        num_queries: Q.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`.
    """
    ks = _check_ks(ks)
    _check_interpolation(interpolation)
    values, sums = np.full(num_queries, np.nan), 0.0
    for queries, measured in _measure(counts, ks, interpolation):
        values[queries] = measured[:, 0]
        sums += measured.sum(axis=0)
    num_measured = np.count_nonzero(~np.isnan(values))
    check_answerable(num_measured, num_queries)
    names = ["map", "map_at_r"]
    for metric in ("recall", "precision", "mp", "map"):
        names += [f"{metric}_at_{k}" for k in ks.tolist()]
    means = sums / num_measured
    metrics = dict(zip(names, means[: len(names)].tolist(), strict=True))
    return RetrievalResult(values, metrics, means[len(names) :])


def check_answerable(num_answerable: int, num_queries: int) -> None:
    """Check that a query has positives."""
    if not num_answerable:
        raise ValueError(
            "Expected at least one query with a relevant image besides itself. "
            f"Received: {num_queries} queries without. Check the labels."
        )


def _measure(
    counts: Iterable, ks: np.ndarray, interpolation: str
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield some queries and their metrics, see `_metrics`, until they run out."""
    counts = iter(counts)
    # The counts are short arrays: together they cost NumPy a fraction of the calls.
    while some := list(itertools.islice(counts, 64)):
        queries, thresholds, above = zip(*some, strict=True)
        num_positives = np.array([len(values) for values in thresholds])
        tied = [len(t) - np.searchsorted(t, t) for t in thresholds]
        # From ascending to descending similarity, the order of the ranks.
        above, tied = (
            np.concatenate([values[::-1] for values in lists])
            for lists in (above, tied)
        )
        yield list(queries), _metrics(above, tied, num_positives, ks, interpolation)


def count_at_or_above(row: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count the values that reach each of the ascending thresholds: `(P,)`.

    Sorting the row would do, at two to four times the cost for 200 of them. The bin of
    a value never falls as the value grows, so a bin without a threshold lies above or
    below each threshold as a whole: it is enough to count it. Only values that share a
    bin with a threshold are sorted.
    """
    if len(thresholds) <= _MAX_PASSES:
        return np.array([np.count_nonzero(row >= value) for value in thresholds])
    low, high = thresholds[0], thresholds[-1]
    close = row[row >= low]
    above_in_others = 0
    with np.errstate(all="ignore"):
        scale = min(64 * len(thresholds), len(row)) / (high - low)
    if 0 < scale < np.inf:
        bins = ((np.minimum(close, high) - low) * scale).astype(np.int64)
        threshold_bins = ((thresholds - low) * scale).astype(np.int64)
        counts = np.bincount(bins, minlength=threshold_bins[-1] + 1)
        shared = np.zeros(len(counts), bool)
        shared[threshold_bins] = True
        counts[shared] = 0
        above_in_others = counts[::-1].cumsum()[::-1][threshold_bins]
        close = close[shared[bins]]
    close.sort()
    return len(close) - np.searchsorted(close, thresholds) + above_in_others


def _metrics(
    above: np.ndarray,
    tied: np.ndarray,
    num_positives: np.ndarray,
    ks: np.ndarray,
    interpolation: str,
) -> np.ndarray:
    """AP, MAP@R, recall, precision, mP, mAP at each k, curve: `(Q, 2 + 4 K + 101)`.

    `above` and `tied` are those of the first query, then of the second, and so on.
    """
    starts = np.cumsum(num_positives) - num_positives  # (Q,)
    hits = np.arange(1, len(above) + 1) - np.repeat(starts, num_positives)
    ranks = hits + above
    precision = hits / ranks

    def per_query(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts, axis=0)

    step = tied / (tied + above)
    if interpolation == "step":
        ap = per_query(step) / num_positives
    else:
        before = np.where(ranks == 1, 1, (hits - 1) / np.maximum(ranks - 1, 1))
        ap = per_query(before + precision) / (2 * num_positives)
    within_r = ranks <= np.repeat(num_positives, num_positives)
    map_at_r = per_query(precision * within_r) / num_positives
    within = ranks[:, None] <= ks  # (positives of all queries, K)
    found = per_query(within.astype(np.int64))  # (Q, K)
    precision_sum = per_query(precision[:, None] * within)
    map_at = precision_sum / np.minimum(num_positives[:, None], ks)
    last = np.maximum.reduceat(ranks, starts)
    mp_at = found / np.minimum(last[:, None], ks)
    curve = interpolated_precision(step, num_positives)
    return np.column_stack([ap, map_at_r, found > 0, found / ks, mp_at, map_at, curve])


def _matrix_rows(similarity, relevance, junk):
    """Yield the rows with positives of a checked matrix, for `count_rows`."""
    similarity, relevance, junk = check_matrix(similarity, relevance, junk)
    for query in np.flatnonzero(relevance.any(axis=1)):
        row = similarity[query].astype(np.result_type(similarity.dtype, np.float16))
        yield query, row, np.flatnonzero(relevance[query]), np.flatnonzero(junk[query])


def _check_ks(ks: Sequence[int]) -> np.ndarray:
    try:
        values = [operator.index(k) for k in ks]
    except TypeError:
        values = [0]
    if not all(1 <= k < 2**63 for k in values):
        raise ValueError(
            "Expected `ks` to be a sequence of integers >= 1 and below 2**63. "
            f"Received: ks={ks!r}."
        )
    return np.array(values, np.int64)


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in ("step", "trapezoid"):
        raise ValueError(
            'Expected `interpolation` to be "step" or "trapezoid". Received: '
            f"interpolation={interpolation!r}."
        )
