"""The precision-recall curve behind a mean AP, and the mAP of each class.

One number hides where a ranking fails. The curve tells whether the first results are
wrong or the last positives are lost; the classes tell which images are hard.

Dimension key: Q queries, P positives of all queries together, L recall levels, C
classes, N images.

Reference: Manning, Raghavan, Schütze, "Introduction to Information Retrieval", 2008,
section 8.4.
"""

import numpy as np

NUM_LEVELS = 101


def interpolated_precision(
    precision: np.ndarray, num_positives: np.ndarray, num_levels: int = NUM_LEVELS
) -> np.ndarray:
    """The interpolated precision of each query at evenly spaced levels of recall.

    Take the R positives of a query in descending similarity. Cut its list behind the
    i-th of them: that finds i of the R positives, with precision `p_i`. A search that
    wants at least the recall r may cut at any of the later ones as well:

        P(r) = max of p_i over all i >= 1 with i / R >= r
        r    = 0, 1 / (L - 1), 2 / (L - 1), ..., 1

    Each query gives one value per level, however many positives it has, so that the
    curves of queries can be averaged. No point (recall 0, precision 1) is invented:
    `P(0)` is the best precision anywhere in the list.

    Args:
        precision: `(P,)`, the `p_i` of the first query, then of the second, and so on.
            Positives with one similarity are one cut: they share the last one's value.
        num_positives: `(Q,)`, each R, at least 1.
        num_levels: L, at least 2.

    Returns:
        `(Q, L)`: from left to right, no row rises.

    Example:
    The positives lie at the ranks 2 and 3, so the precisions are 1/2 and 2/3.

    >>> interpolated_precision(np.array([1 / 2, 2 / 3]), np.array([2]), 3).round(2)
    array([[0.67, 0.67, 0.67]])
    """
    best = np.array(precision, np.float64)
    starts = np.cumsum(num_positives) - num_positives  # (Q,)
    for start, count in zip(starts.tolist(), num_positives.tolist(), strict=True):
        backwards = best[start : start + count][::-1]
        np.maximum.accumulate(backwards, out=backwards)
    # In whole numbers: the float 0.07 * 100 is more than 7.
    steps = np.arange(num_levels) * num_positives[:, None]
    needed = np.maximum(1, -(-steps // (num_levels - 1)))  # (Q, L)
    return best[starts[:, None] + needed - 1]


def map_per_class(average_precision, labels) -> tuple[np.ndarray, ...]:
    """The mean AP of the queries of each class.

    Args:
        average_precision: `(N,)`, NaN for an image that does not query.
        labels: `(N,)` integers.

    Returns:
        Labels of the classes that have a query, ascending, their mAP, and their numbers
        of queries: each `(C,)`.

    Example:
    >>> from keras_aploss.evaluation import map_per_class
    >>> map_per_class([1.0, 0.5, 0.25, float("nan")], [7, 7, 3, 4])
    (array([3, 7]), array([0.25, 0.75]), array([1, 2]))
    """
    average_precision = np.asarray(average_precision, np.float64)
    labels = np.asarray(labels)
    if labels.shape != average_precision.shape or labels.ndim != 1:
        raise ValueError(
            "Expected one AP, or NaN, for each label. Received: "
            f"average_precision.shape={average_precision.shape}, "
            f"labels.shape={labels.shape}."
        )
    asked = ~np.isnan(average_precision)
    classes, inverse, counts = np.unique(
        labels[asked], return_inverse=True, return_counts=True
    )
    sums = np.bincount(inverse, average_precision[asked], len(classes))
    return classes, sums / np.maximum(counts, 1), counts
