"""The nearest images of many queries, exact, in a database larger than the memory.

A tile of similarities, some queries by some images of the database, is all that is held
beside the block of either. From tile to tile only the k best of each query are kept:
what does not exceed the k-th of them is passed over, many images in one comparison.

Dimension key: Q queries, N database images, D units, k neighbours.
"""

from collections.abc import Iterator

import numpy as np

from keras_aploss.embeddings.storage import row_blocks

# How far from 1 the length of a stored embedding may be: 16-bit floats round by 1e-3.
_LENGTH_TOLERANCE = 0.01
_CHUNK_VALUES = 2**20  # similarities that are looked through at a time
_GROUP = 64


def unit_blocks(
    embeddings: np.ndarray, name: str, block_size: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """`row_blocks`, each checked to hold rows of unit length, or of zeros."""
    for start, block in row_blocks(embeddings, block_size):
        # Fast, in float32; what it doubts is looked at again.
        square = np.einsum("nd,nd->n", block, block)
        doubtful = np.flatnonzero(~(np.abs(square - 1) <= _LENGTH_TOLERANCE))
        rows = block[doubtful]
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        fits = (np.abs(length - 1) <= _LENGTH_TOLERANCE) | (length == 0)
        if not fits.all():
            bad = np.argmin(fits)
            raise ValueError(
                f"Expected embeddings of unit length. Received: `{name}` with row "
                f"{start + doubtful[bad]} of length {length[bad]:g}. Divide the rows "
                "by their lengths (`unit_length`); NaN comes from a diverged model."
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
    size = 0
    read = unit_blocks if check else lambda e, _, size: row_blocks(e, size)
    for start, block in read(database, "database", block_size):
        if start == 0:
            width = min(_GROUP, max(1, len(block) // (4 * k)))
            memory = np.empty(len(queries) * (len(block) + width), np.float32)
        if size != len(block):  # the first, and a shorter last one
            size = len(block)
            padded = -(-size // width) * width
            tile = memory[: len(queries) * padded].reshape(len(queries), padded)
            tile[:, size:] = -np.inf
        similarity = tile[:, :size]
        np.matmul(queries, block.T, out=similarity)  # (Q, n)
        if first is not None:
            own = np.arange(first, first + len(queries)) - start
            here = np.flatnonzero((own >= 0) & (own < size))
            similarity[here, own[here]] = -np.inf
        groups = tile.reshape(len(queries), -1, width)  # (Q, G, width)
        step = max(1, _CHUNK_VALUES // (padded + k))
        for row in range(0, len(queries), step):
            rows = slice(row, row + step)
            _keep_best(groups[rows], start, best[rows], indices[rows])
    return indices


def _keep_best(groups, start, best, indices):
    """Put larger similarities among the k best of before, in place.

    Of each group of neighbouring images the largest similarity is looked at first. The
    k-th largest of these is reached by k images at least, so that groups below it, or
    not above the k-th best of before, hold nothing to keep. Of random embeddings about
    k groups of a query are left.

    Args:
        groups: `(q, G, width)` similarities, -inf where there is no image.
        start: index of the first image.
        best: `(q, k)` similarities of before in descending order; changed.
        indices: `(q, k)` images that they are of; changed.
    """
    _, count, width = groups.shape
    k = best.shape[1]
    flat = groups.reshape(len(groups), -1)
    peaks = np.maximum.reduceat(flat, np.arange(0, count * width, width), axis=1)
    # Of equal similarities the earlier stays: it must be exceeded.
    least = np.nextafter(best[:, -1:], np.float32(np.inf))  # (q, 1)
    if count >= k:
        least = np.maximum(least, np.partition(peaks, -k, axis=1)[:, -k, None])
    query, group = np.nonzero(peaks >= least)
    values = groups[query, group]  # (groups that are left, width)
    left, column = np.divmod(np.flatnonzero(values >= least[query]), width)
    query = query[left]
    if not len(query):
        return
    # Now by query, and of each in ascending order. Each gets a place behind its best.
    counts = np.bincount(query, minlength=len(best))
    place = k + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    both = np.full((len(best), k + counts.max()), -np.inf, np.float32)
    from_where = np.zeros(both.shape, np.int64)
    both[:, :k], from_where[:, :k] = best, indices
    both[query, place] = values[left, column]
    from_where[query, place] = start + group[left] * width + column
    order = np.argsort(-both, axis=1, kind="stable")[:, :k]
    best[:] = np.take_along_axis(both, order, axis=1)
    indices[:] = np.take_along_axis(from_where, order, axis=1)
