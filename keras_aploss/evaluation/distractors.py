"""Databases that no memory holds: exact counts over one pass of blocks.

The problem: a million distractors of 2,048 units take 8 GB, and a ranking seems to need
them all at once. It does not. The metrics of a query follow from the number of
negatives that reach each of its positives (`metrics`), and numbers add up: a block of
the database is read, multiplied with the queries, counted and forgotten. Beside the
block, memory holds `O(Q P)` numbers, and the result is that of the whole ranking.

Blocks of a file that is mapped into memory are read, not mapped: a page that has been
touched would stay with the process.

Ties. A row that is identical, bit for bit, to a positive gets the similarity that the
positive had, however the two matrix products round.

Dimension key: Q queries, P positives of one query, N rows of a large array, D units,
n rows of a block.
"""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_aploss.evaluation.inputs import check_embeddings
from keras_aploss.evaluation.metrics import count_at_or_above

# 64 MiB of embeddings, and as much of similarities.
_BLOCK_VALUES = 2**24


class Counted(NamedTuple):
    """The positives of a query, and the count of images that outrank them so far.

    Attributes:
        query: its number.
        positives: `(P,)` indices into the database.
        similarity: `(P,)` of these positives.
        thresholds: `(P,)` the same in ascending order.
        above: `(P,)` negatives that reach each threshold; distractors are added.
    """

    query: int
    positives: np.ndarray
    similarity: np.ndarray
    thresholds: np.ndarray
    above: np.ndarray


class Rows(NamedTuple):
    """Rows of an array in which every query finds negatives only.

    Attributes:
        name: what errors call the array.
        array: `(N, D)`, in memory or mapped into it.
        left_out: ascending indices of the rows that do not belong to them.
    """

    name: str
    array: np.ndarray
    left_out: np.ndarray


def add_distractors(
    counted: Sequence[Counted],
    queries: np.ndarray,
    database: np.ndarray,
    parts: Sequence[Rows],
    *,
    verbose: int = 0,
) -> None:
    """Add the negatives of `parts` to the `above` of all that is counted.

    Args:
        counted: the queries with positives, of any number of protocols.
        queries: `(Q, D)` float32.
        database: `(rows, D)` float32, which `Counted.positives` index.
        parts: what to count.
        verbose: 1 shows a progress bar.
    """
    chosen = np.unique([item.query for item in counted])
    place = {query: row for row, query in enumerate(chosen.tolist())}
    queries = queries[chosen]
    values = max(queries.shape[1], len(queries))
    size = max(1, _BLOCK_VALUES // values)  # rows per block, n
    originals = _Originals(counted, database)
    num_blocks = sum(-(-len(part.array) // size) for part in parts)
    progress = keras.utils.Progbar(num_blocks, verbose=verbose)
    buffer = np.empty((len(queries), size), np.float32)
    for block in _blocks(parts, size):
        if len(block):
            similarity = buffer[:, : len(block)]  # (Q, n)
            np.matmul(queries, block.T, out=similarity)
            copies = originals.copies_in(block)
            for item in counted:
                row = similarity[place[item.query]]
                for original, columns in copies:
                    row[columns] = _similarity_of(original, item, row[columns])
                close = row[row >= item.thresholds[0]]
                item.above[:] += count_at_or_above(close, item.thresholds)
        progress.add(1)


class _Originals:
    """The distinct rows among the positives, to be recognised in other arrays."""

    def __init__(self, counted: Sequence[Counted], database: np.ndarray):
        rows = np.unique(np.concatenate([item.positives for item in counted]))
        self.sums = np.unique(_row_sums(database[rows]))
        # Identical rows of one database have one similarity: any of them will do, but
        # a query knows only that of its own positives.
        self.rows: dict[bytes, list[int]] = {}
        for row in rows.tolist():
            self.rows.setdefault(_digest(database[row]), []).append(row)

    def copies_in(self, block: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs: rows of the database, and the columns that are identical to them."""
        columns: dict[bytes, list[int]] = {}
        for column in np.flatnonzero(np.isin(_row_sums(block), self.sums)).tolist():
            digest = _digest(block[column])
            if digest in self.rows:
                columns.setdefault(digest, []).append(column)
        return [
            (np.array(self.rows[digest]), np.array(found))
            for digest, found in columns.items()
        ]


def _row_sums(rows: np.ndarray) -> np.ndarray:
    """Sums of the bits: equal for identical rows, in any order of summation."""
    return rows.view(np.uint32).sum(axis=1, dtype=np.uint32)


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row).digest()


def _similarity_of(original: np.ndarray, item: Counted, otherwise):
    """The similarity that a query has with one of the rows, if it is a positive."""
    known = item.similarity[np.isin(item.positives, original)]
    return known[0] if len(known) else otherwise


def _blocks(parts: Sequence[Rows], size: int) -> Iterator[np.ndarray]:
    """Yield the rows, at most `size` at a time, as checked float32."""
    for name, array, left_out in parts:
        for start in range(0, len(array), size):
            stop = min(start + size, len(array))
            block = _read(array, start, stop)
            first, last = np.searchsorted(left_out, [start, stop])
            if first < last:
                block = np.delete(block, left_out[first:last] - start, axis=0)
            yield check_embeddings(block, name, start) if len(block) else block


def _read(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows of an array; if it is mapped from a file, by a read of its own."""
    whole = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    is_mapped = isinstance(whole, np.memmap) and isinstance(whole.base, mmap.mmap)
    if not (is_mapped and whole.filename and array.flags.c_contiguous):
        return array[start:stop]
    units = array.shape[1]
    count = (stop - start) * units
    offset = whole.offset + array.ctypes.data - whole.ctypes.data
    offset += start * units * array.itemsize
    values = np.fromfile(whole.filename, array.dtype, count, offset=offset)
    if len(values) < count:
        raise ValueError(
            f"Expected {len(array)} rows of embeddings in {str(whole.filename)!r}. "
            f"Received: a file that now ends before row {stop}. Write it again."
        )
    return values.reshape(-1, units)


def set_apart(
    database: np.memmap, listed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Rows]] | None:
    """Divide a mapped database into the rows that ground truths list, and the rest.

    Returns:
        The listed rows in memory, `(N,)` numbers of the rows among them (only those of
        the listed ones mean anything), and the rest; None if most rows are listed.
    """
    if not 0 < 2 * len(listed) <= len(database):
        return None
    numbers = np.zeros(len(database), np.int64)
    numbers[listed] = np.arange(len(listed))
    return np.array(database[listed]), numbers, [Rows("database", database, listed)]
