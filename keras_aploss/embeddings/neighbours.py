"""The nearest images of many queries, exact, in a database larger than the memory.

A tile of similarities, some queries by some images of the database, is all that is held
beside the block of either. From tile to tile only the k best of each query are kept:
what does not exceed the k-th of them is passed over in one comparison.

Dimension key: Q queries, N database images, D units, k neighbours.
"""

from collections.abc import Iterator

import numpy as np

from keras_aploss.embeddings.storage import row_blocks

# How far from 1 the length of a stored embedding may be: 16-bit floats round by 1e-3.
_LENGTH_TOLERANCE = 0.01


def unit_blocks(
    embeddings: np.ndarray, name: str, block_size: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """`row_blocks`, each checked to hold rows of unit length, or of zeros."""
    for start, block in row_blocks(embeddings, block_size):
        length = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        fits = (np.abs(length - 1) <= _LENGTH_TOLERANCE) | (length == 0)
        if not fits.all():
            row = np.argmin(fits)
            raise ValueError(
                f"Expected embeddings of unit length. Received: `{name}` with row "
                f"{start + row} of length {length[row]:g}. Divide the rows by their "
                "lengths (`unit_length`); NaN comes from a diverged model."
            )
        yield start, block


def nearest(
    queries: np.ndarray,
    database: np.ndarray,
    k: int,
    *,
    first: int | None = None,
    block_size: int | None = None,
    check: bool = True,
) -> np.ndarray:
    """The indices of the k most similar images, `(Q, k)`; ties: lower index first.

    Args:
        queries: `(Q, D)` float32, one block.
        database: `(N, D)`, read block by block.
        k: at least 1, at most the images there are to find.
        first: the queries are the images of the database from this index on, and each
            leaves itself out; None: they are others.
        block_size: rows of the database at a time.
        check: whether to look at the length of the rows.
    """
    best = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.zeros((len(queries), k), np.int64)
    read = unit_blocks if check else lambda e, _, size: row_blocks(e, size)
    for start, block in read(database, "database", block_size):
        similarity = queries @ block.T  # (Q, n)
        if first is not None:
            own = np.arange(first, first + len(queries)) - start
            here = np.flatnonzero((own >= 0) & (own < len(block)))
            similarity[here, own[here]] = -np.inf
        # Of equal similarities the earlier stays: those of before come first here.
        for query in np.flatnonzero(similarity.max(axis=1) > best[:, -1]):
            row = similarity[query]
            better = _largest(row, k, best[query, -1])
            values = np.concatenate([best[query], row[better]])
            both = np.concatenate([indices[query], better + start])
            order = np.argsort(-values, kind="stable")[:k]
            best[query], indices[query] = values[order], both[order]
    return indices


def _largest(row, k, bound):
    """Ascending indices of values above a bound, the k largest surely among them."""
    if len(row) > 4 * k and bound == -np.inf:
        # Of the first block all would pass: its own k-th largest is a bound as well.
        bound = np.partition(row, len(row) - k)[len(row) - k]
        return np.flatnonzero(row >= bound)
    return np.flatnonzero(row > bound)
