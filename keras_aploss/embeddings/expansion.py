"""Query expansion and database-side augmentation: what neighbours know.

The first images found for a query show, as a rule, the same object from elsewhere.
Their mean with the query describes it better than the query alone (*query expansion*);
the same done beforehand for every image of the database is *database-side
augmentation*. With weights that fall with the similarity, late and doubtful neighbours
count less:

    q' = L2(q + s_1^α n_1 + … + s_k^α n_k)        s_i = max(q · n_i, 0)

for the k most similar images n_1, …, n_k of the database. The factor 1 / (k + 1) of a
mean makes no difference before L2. A negative similarity has no power for a fractional
α: it counts as 0. With α = 0 all weights are 1, even that of a similarity of 0: the
plain average query expansion.

The database is read block by block, from a mapped file too: the memory is that of a
few blocks (16 MiB) and a tile of similarities (64 MiB), whatever its size. Neighbours
lie anywhere in the file; the system maps pages around them, at most 64 MiB at a time.
They are exact up to the rounding of float32: images that tie to 1e-6 may change
places on another machine. Of equal ones the lower index comes first.

Dimension key: Q queries, N database images, D units, k neighbours.

References: Chum et al., "Total Recall: Automatic Query Expansion with a Generative
Feature Model for Object Retrieval", ICCV 2007 (average query expansion); Radenović,
Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019
(α-weighted); Turcot, Lowe, "Better matching with fewer features", ICCV Workshops 2009
(database-side augmentation).
"""

import math
import operator
import os

import numpy as np

from keras_aploss.embeddings.scales import unit_length
from keras_aploss.embeddings.storage import (
    check_matrix,
    release_pages,
    row_blocks,
    rows_per_block,
    save_blocks,
    unit_blocks,
)
from keras_aploss.evaluation import nearest_in_blocks

_NEIGHBOUR_VALUES = 2**22  # of neighbours in memory at a time: 16 MiB
_MAPPED_BYTES = 2**26  # of a file at a time
_BYTES_PER_ROW = 2**21  # may be mapped around a row that is read


def expand_queries(
    queries,
    database,
    *,
    k: int,
    alpha: float = 3.0,
    block_size: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Replace each query by the weighted mean of itself and its k nearest images.

    α-weighted query expansion (αQE); the formula is in the module's docstring:
    `q' = L2(mean(q, s_1^α n_1, …, s_k^α n_k))`.

    Args:
        queries: `(Q, D)` floats, of unit length or zeros.
        database: `(N, D)` floats, of unit length or zeros; a mapped file too.
        k: how many neighbours, from 0 (nothing changes but the type) to N.
        alpha: exponent of the similarities, at least 0 (all weights 1).
        block_size: rows of queries and of the database at a time; None: 16 MiB of
            them. The result does not depend on it, up to rounding.
        verbose: 1 shows a progress bar.

    Returns:
        `(Q, D)` float32 of unit length. Where the sum is zero, zeros.

    Raises:
        ValueError: for arrays that do not fit each other or whose rows have another
            length, `k` above N, or a negative `alpha`.

    Example:
    The nearest image has the similarity 0.8, and with α = 1 the weight 0.8: the sum is
    (1 + 0.8 · 0.8, 0.8 · 0.6) = (1.64, 0.48).

    >>> from keras_aploss.embeddings import expand_queries
    >>> database = [[0.8, 0.6], [0.0, 1.0]]
    >>> expand_queries([[1.0, 0.0]], database, k=1, alpha=1).round(4)
    array([[0.9597, 0.2809]], dtype=float32)
    """
    queries = check_matrix(queries, "queries")
    database = check_matrix(database, "database")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            "Expected queries and database of one number of units. Received: "
            f"queries.shape={queries.shape}, database.shape={database.shape}."
        )
    k = _check(k, len(database), alpha, block_size)
    blocks = _expanded(queries, database, k, alpha, block_size, is_database=False)
    return save_blocks(blocks, queries.shape, verbose=verbose)


def augment_database(
    database,
    *,
    k: int,
    alpha: float = 3.0,
    out: str | os.PathLike | None = None,
    block_size: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Replace each image of the database by the weighted mean with its k nearest.

    As `expand_queries`, with every image as a query that leaves itself out: by its
    index, so that a copy of it is a neighbour like any other. All neighbours are those
    of the database as it was.

    The work is that of N × N similarities: see the progress bar.

    Args:
        database: `(N, D)` floats, of unit length or zeros; a mapped file too.
        k: how many neighbours, from 0 (nothing changes but the type) to N - 1.
        alpha: exponent of the similarities, at least 0 (all weights 1).
        out: `.npy` file to write, for more than fits the memory; it may be the file of
            `database`.
        block_size: rows at a time; None: 16 MiB of them.
        verbose: 1 shows a progress bar.

    Returns:
        `(N, D)` float32 of unit length; mapped read-only if `out` is given.

    Raises:
        ValueError: for rows of another length, `k` above N - 1, a negative `alpha`.
        OSError: if `out` cannot be written.

    Example:
    With α = 0 and one neighbour, images 0 and 1 both move to their middle. Image 2 has
    image 1 for its nearest.

    >>> from keras_aploss.embeddings import augment_database
    >>> database = [[1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]]
    >>> augment_database(database, k=1, alpha=0).round(4) + 0.0
    array([[0.8944, 0.4472],
           [0.8944, 0.4472],
           [0.    , 1.    ]], dtype=float32)
    """
    database = check_matrix(database, "database")
    k = _check(k, len(database) - 1, alpha, block_size)
    blocks = _expanded(database, database, k, alpha, block_size, is_database=True)
    return save_blocks(blocks, database.shape, out, verbose=verbose)


def _expanded(queries, database, k, alpha, block_size, *, is_database):
    """Yield the blocks of queries, each with its neighbours added."""
    block_size = block_size or rows_per_block(queries.shape[1])
    name = "database" if is_database else "queries"
    for start, block in unit_blocks(queries, name, block_size):
        if k == 0:
            yield unit_length(block)
            continue
        # Checked once: the rows of a database that queries itself are so, as
        # neighbours, before the first of them is used.
        blocks = (
            unit_blocks(database, "database", block_size)
            if start == 0
            else row_blocks(database, block_size)
        )
        first = start if is_database else None
        indices = nearest_in_blocks(block, blocks, k, first=first)
        yield expand(block, database, indices, alpha)


def expand(queries, database, indices, alpha: float) -> np.ndarray:
    """`L2(q + Σ s_i^α n_i)` for known neighbours.

    Args:
        queries: `(Q, D)` float32.
        database: `(N, D)` floats.
        indices: `(Q, k)` neighbours of each query.
        alpha: exponent of the similarities.
    """
    expanded = np.empty(queries.shape, np.float32)
    step = max(1, _NEIGHBOUR_VALUES // max(1, indices.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        neighbours = _read(database, indices[rows])  # (q, k, D)
        total = queries[rows].astype(np.float64)  # (q, D)
        for nearest_one in neighbours.swapaxes(0, 1):  # (q, D)
            # Anew, because a matrix product rounds by the shape of its tiles.
            similarity = np.einsum(
                "qd,qd->q", queries[rows], nearest_one, dtype=np.float64
            )
            weight = np.maximum(similarity, 0.0) ** alpha
            total += weight[:, None] * nearest_one
        expanded[rows] = unit_length(total)
    return expanded


def _read(database, indices):
    """Rows from all over a file, `(q, k, D)` float32, read as they lie in it."""
    flat = indices.ravel()
    order = np.argsort(flat)
    rows = np.empty((len(flat), database.shape[1]), np.float32)
    step = _MAPPED_BYTES // _BYTES_PER_ROW
    if database.nbytes <= _MAPPED_BYTES:
        step = len(flat)
    for start in range(0, len(flat), step):
        some = order[start : start + step]
        rows[some] = database[flat[some]]
        release_pages(database)
    return rows.reshape(*indices.shape, -1)


def _check(k, most, alpha, block_size):
    k = operator.index(k)
    if not 0 <= k <= most:
        raise ValueError(
            f"Expected `k` from 0 to {most}, the neighbours there are. Received: k={k}."
        )
    if not 0 <= alpha < math.inf:
        raise ValueError(
            f"Expected `alpha` to be a number of at least 0. Received: alpha={alpha!r}."
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"Expected `block_size` >= 1. Received: {block_size=}.")
    return k
