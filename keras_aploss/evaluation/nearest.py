"""The nearest images of a query, exact: ties go to the lower index.

`top_k` ranks arrays in memory, and gives the similarities too; embeddings of the
database that are identical, bit for bit, are tied on every machine. `nearest_in_blocks`
ranks a database that is read from a file block by block. Both look first at the largest
similarity of each group of images: k groups reach the k-th largest of these, so that
whatever lies below it is passed over, many images in one comparison.

Dimension key: Q queries, N database images, D units, k neighbours.
"""

import operator
from collections.abc import Iterable

import numpy as np

from keras_aploss.evaluation.inputs import check_embeddings
from keras_aploss.evaluation.similarity import similarity_rows

_CHUNK_VALUES = 2**20  # similarities that are looked through at a time
_GROUP = 64


def top_k(
    queries,
    database,
    k: int,
    *,
    exclude_self: bool = False,
    block_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar database images of each query, most similar first.

    Args:
        queries: `(Q, D)` floats, rows of unit length.
        database: `(N, D)` floats, rows of unit length.
        k: how many, at most N.
        exclude_self: the queries are the database, and query i leaves image i out.
        block_size: queries per block. Default: as many as fit 64 MiB.

    Returns:
        Indices `(Q, k)` int64 and similarities `(Q, k)` float32. Of equal
        similarities the lower index comes first.

    Raises:
        ValueError: for arrays that do not fit each other, `k` out of range, or rows
            that are not of unit length (or zeros).

    Example:
    >>> from keras_aploss import top_k
    >>> indices, similarities = top_k([[1.0, 0.0]], [[0.6, 0.8], [1.0, 0.0]], k=2)
    >>> indices, similarities
    (array([[1, 0]]), array([[1. , 0.6]], dtype=float32))
    """
    queries = check_embeddings(queries, "queries")
    database = check_embeddings(database, "database")
    if exclude_self and len(queries) != len(database):
        raise ValueError(
            "Expected the queries to be the database with `exclude_self=True`. "
            f"Received: len(queries)={len(queries)}, len(database)={len(database)}."
        )
    k = operator.index(k)
    most = len(database) - bool(exclude_self)
    if not 1 <= k <= most:
        raise ValueError(
            f"Expected `k` from 1 to the {most} images to rank. Received: k={k}."
        )
    indices = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    every = np.arange(len(queries))
    for query, row in similarity_rows(queries, database, every, block_size, 0):
        if exclude_self:
            row[query] = -np.inf
        indices[query] = top_of_row(row, k)
        similarities[query] = row[indices[query]]
    return indices, similarities


def top_of_row(row: np.ndarray, k: int) -> np.ndarray:
    """The indices of the k largest values, largest first; ties: lower index first.

    The k-th largest of group maxima is a lower bound of the k-th largest value, since
    k groups reach it. Few values pass it, and only those are sorted.
    """
    if k == 0:
        return np.empty(0, np.int64)
    group = max(1, min(32, len(row) // (4 * k)))
    width = len(row) // group  # >= k
    maxima = row[: group * width].reshape(group, width).max(axis=0)
    bound = np.partition(maxima, width - k)[width - k]
    candidates = np.flatnonzero(row >= bound)
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]


def nearest_in_blocks(
    queries: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
    k: int,
    *,
    first: int | None = None,
) -> np.ndarray:
    """The indices of the k most similar images of a database larger than the memory.

    A tile of similarities, the queries by a block of the database, is all that is held
    beside the two. From tile to tile only the k best of each query are kept.

    Args:
        queries: `(Q, D)` float32.
        blocks: of the database, in order: the index of the first row and the float32
            rows, `(n, D)`; n is the same of all but the last.
        k: at least 1, at most the images there are to find.
        first: the queries are the images of the database from this index on, and each
            leaves itself out; None: they are others.

    Returns:
        `(Q, k)` int64, most similar first; of equal similarities the lower index first.
    """
    best = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.zeros((len(queries), k), np.int64)
    size = 0
    for start, block in blocks:
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
