"""The similarities of positive and negative pairs, as the AP loss sees them.

The further the two histograms are apart, the better the AP.

Dimension key: N images, D units, M bins.
"""

import numpy as np

from keras_aploss.evaluation import check_embeddings
from keras_aploss.report.example_rankings import spread


def similarity_histogram(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    num_bins: int = 20,
    similarity_range: tuple[float, float] = (-1.0, 1.0),
    max_queries: int = 2000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin the similarities of positive and negative pairs as the AP loss does.

    A similarity between two centres counts partly in each, in proportion to its
    nearness; beyond the end bins it counts in them. No image is paired with itself.

    Args:
        embeddings: Unit-length embeddings, (N, D).
        labels: Integer labels, (N,); a negative one marks a distractor, which is a
            negative of every query and never a query.
        num_bins: Number of bins M.
        similarity_range: Centres of the lowest and the highest bin.
        max_queries: With more images, that many queries, evenly spread over them.

    Returns:
        Centres of the bins in descending order, counts of the positive pairs and
        counts of the negative pairs, each (M,).

    Example:
    >>> import numpy as np
    >>> from keras_aploss.report import similarity_histogram
    >>> embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> for row in similarity_histogram(embeddings, [5, 5, 6], num_bins=3):
    ...     print(row)
    [ 1.  0. -1.]
    [2. 0. 0.]
    [0. 4. 0.]
    """
    embeddings = check_embeddings(embeddings, "embeddings")
    labels = np.asarray(labels)
    low, high = similarity_range
    queries = spread(np.flatnonzero(labels >= 0), max_queries)
    totals, to_lower = np.zeros(2 * num_bins), np.zeros(2 * num_bins)
    rows = max(1, 2**22 // max(1, len(labels)))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        similarity = embeddings[block] @ embeddings.T  # (rows, N)
        relevance = labels[block, None] == labels
        other = np.ones_like(relevance)
        other[np.arange(len(block)), block] = False
        position = (high - similarity[other]) * ((num_bins - 1) / (high - low))
        position = np.clip(position, 0, num_bins - 1)
        upper = np.minimum(position.astype("int64"), num_bins - 2)
        slot = upper + num_bins * relevance[other]
        totals += np.bincount(slot, minlength=2 * num_bins)
        to_lower += np.bincount(slot, position - upper, minlength=2 * num_bins)
    totals, to_lower = totals.reshape(2, -1), to_lower.reshape(2, -1)
    counts = totals - to_lower
    counts[:, 1:] += to_lower[:, :-1]
    return np.linspace(high, low, num_bins), counts[1], counts[0]
