"""Similarities of all pairs, block by block.

Similarity is the float32 dot product of embeddings of unit length: the cosine. Rows of
other lengths are refused (`inputs`).

Ties. Embeddings of the database that are identical, bit for bit, are tied on every
machine. Other similarities that differ by no more than float32 rounding may change
places with the block size or the machine.

Dimension key: Q queries, N database images, D units, C copies among the N.
"""

import hashlib
from collections.abc import Iterator

import keras
import numpy as np

from keras_aploss.evaluation.inputs import check_units

# 64 MiB of similarities: enough rows for a fast matrix product.
_BLOCK_VALUES = 2**24


def similarity_rows(
    queries: np.ndarray,
    database: np.ndarray,
    chosen: np.ndarray,
    block_size: int | None,
    verbose: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each chosen query with its `(N,)` similarities, free to overwrite."""
    check_units("database", queries, database)
    if block_size is None:
        block_size = max(1, _BLOCK_VALUES // len(database))
    if block_size < 1:
        raise ValueError(f"Expected `block_size` >= 1. Received: {block_size=}.")
    copies, originals = _identical_rows(database)
    buffer = np.empty((min(block_size, len(chosen)), len(database)), np.float32)
    progress = keras.utils.Progbar(-(-len(chosen) // block_size), verbose=verbose)
    for block, start in enumerate(range(0, len(chosen), block_size)):
        block_queries = chosen[start : start + block_size]
        rows = buffer[: len(block_queries)]  # (block_size, N)
        np.matmul(queries[block_queries], database.T, out=rows)
        if len(copies):
            # A matrix product rounds by the place of a column in its tiles and threads.
            rows[:, copies] = rows[:, originals]
        yield from zip(block_queries.tolist(), rows, strict=True)
        progress.update(block + 1)


def _identical_rows(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows identical to an earlier one, `(C,)`, and the first such row of each."""
    # Sums of integers, unlike those of floats, do not depend on their order: identical
    # rows have equal sums. Few others do, and only these rows are looked at one by one.
    sums = embeddings.view(np.uint32).sum(axis=1, dtype=np.uint32)
    _, inverse, counts = np.unique(sums, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(embeddings[row]).digest() for row in suspects)
    originals = [
        first.setdefault(digest, row)
        for row, digest in zip(suspects.tolist(), digests, strict=True)
    ]
    originals = np.array(originals, np.int64)
    is_copy = originals != suspects
    return suspects[is_copy], originals[is_copy]
