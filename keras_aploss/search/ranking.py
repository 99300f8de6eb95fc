"""A ranking like that of `evaluation`, from what an engine found.

An engine breaks ties as it likes, and cuts its list in the middle of them. So it is
asked for more than k, until the list goes on below the k-th similarity by more than
rounding; what is within that distance or above is ranked anew, exactly.

Dimension key: D units, k results.
"""

import logging

import numpy as np

from keras_aploss.evaluation import top_k

_ROUNDING = 1e-5  # between two ways to compute a similarity

_logger = logging.getLogger(__name__)


def has_all_ties(rows, k: int, want: int, most: int) -> bool:
    """Whether no row that was left out can be as similar as the k-th."""
    if len(rows) < min(want, most):
        return True  # there are no others
    if rows[-1].similarity < rows[k - 1].similarity - _ROUNDING:
        return True
    if want < most:
        return False
    _logger.warning(
        "More than %d images are as similar as result %d: which of them are shown is "
        "up to the engine.",
        most,
        k,
    )
    return True


def rank(query: np.ndarray, rows, k: int) -> list:
    """The k best of the rows, by `top_k` in the order of their paths."""
    if not rows:
        return []
    least = rows[min(k, len(rows)) - 1].similarity - _ROUNDING
    rows = sorted((row for row in rows if row.similarity >= least), key=path_of)
    vectors = np.stack([row.vector for row in rows])
    indices, similarities = top_k(query[None], vectors, min(k, len(rows)))
    return [
        rows[i]._replace(similarity=value)
        for i, value in zip(indices[0].tolist(), similarities[0].tolist(), strict=True)
    ]


def path_of(row) -> str:
    """The key by which rows are ordered."""
    return row.path
