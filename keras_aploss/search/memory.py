"""Rows of an index in memory, and what a row is.

Exact search by one matrix product: the reference for the other places that hold rows,
and for as many images as fit the memory the fastest of them.

Dimension key: Q queries, N images, D units, k results.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.evaluation import top_k

_BATCH = 16384


class Row(NamedTuple):
    """An image of an index; `vector` `(D,)` and `similarity` where they were asked."""

    path: str
    label: str
    id: str
    vector: np.ndarray | None = None
    similarity: float | None = None


def key_of(text: str) -> str:
    """32 hexadecimal digits that stand for a path or a label in keys and filters.

    A path holds quotes, newlines and backslashes; a digest needs no escape in the
    filter language of any engine.
    """
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class MemoryRows:
    """Rows in a dictionary; the matrix of their vectors is made when it is asked for.

    Args:
        about: what the index is of, see `VectorIndex`.
    """

    exact = True

    def __init__(self, about: dict):
        self.about = about
        self._rows: dict[str, Row] = {}
        self._ordered: tuple[list[Row], np.ndarray] | None = None

    def count(self) -> int:
        """N."""
        return len(self._rows)

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, or replace those of the same path."""
        self._rows |= {row.path: row for row in rows}
        self._ordered = None

    def remove(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths; those that are not there, too."""
        for path in paths:
            self._rows.pop(path, None)
        self._ordered = None

    def get(self, paths: Sequence[str]) -> dict[str, Row]:
        """The rows of these paths that are there, by their path."""
        return {path: self._rows[path] for path in paths if path in self._rows}

    def scan(self, *, vectors: bool = False) -> Iterator[list[Row]]:
        """Yield all rows in lists; without `vectors` these may be None."""
        rows = list(self._rows.values())
        for start in range(0, len(rows), _BATCH):
            yield rows[start : start + _BATCH]

    def nearest(
        self, queries: np.ndarray, k: int, labels: Sequence[str] | None
    ) -> list[list[Row]]:
        """Of each query the k most similar rows; ties: the lower path first."""
        rows, vectors = self._in_order()
        if labels is not None:
            chosen = [i for i, row in enumerate(rows) if row.label in set(labels)]
            rows, vectors = [rows[i] for i in chosen], vectors[chosen]
        k = min(k, len(rows))
        if not k:
            return [[] for _ in queries]
        indices, similarities = top_k(queries, vectors, k)  # (Q, k)
        return [
            [
                rows[i]._replace(similarity=value)
                for i, value in zip(found, values, strict=True)
            ]
            for found, values in zip(
                indices.tolist(), similarities.tolist(), strict=True
            )
        ]

    def flush(self) -> None:
        """Nothing is to be written."""

    def close(self) -> None:
        """Nothing is to be closed."""

    def _in_order(self):
        if self._ordered is None:
            rows = sorted(self._rows.values(), key=lambda row: row.path)
            vectors = np.empty((len(rows), self.about["units"]), np.float32)
            for i, row in enumerate(rows):
                vectors[i] = row.vector
            self._ordered = rows, vectors
        return self._ordered
