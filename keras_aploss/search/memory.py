"""Rows of an index in memory, and what a row is.

Search is exact, by one matrix product. Of the places that hold rows this is the
fastest, for as many images as fit.

Dimension key: Q queries, N images, D units, k results.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.evaluation import top_of_row

_BATCH = 16384
_SIMILARITIES = 2**24  # in memory at a time: 64 MiB


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

    def __init__(self, about: dict):
        self.about = about
        self._rows: dict[str, Row] = {}
        self._held: tuple | None = None

    def count(self) -> int:
        """N."""
        return len(self._rows)

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, or replace those of the same path."""
        self._rows |= {row.path: row for row in rows}
        self._held = None

    def remove(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths; those that are not there, too."""
        for path in paths:
            self._rows.pop(path, None)
        self._held = None

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
        """Of each query k of the most similar rows, most similar first, or all.

        The order of equal ones is not settled here.
        """
        rows, vectors, of_label = self._arrays()
        if not rows:
            return [[] for _ in queries]
        chosen = None
        if labels is not None:
            found = [of_label[label] for label in set(labels) if label in of_label]
            chosen = np.concatenate([*found, np.empty(0, np.int64)])
        results = []
        step = max(1, _SIMILARITIES // len(rows))
        for start in range(0, len(queries), step):
            similarities = queries[start : start + step] @ vectors.T  # (Q, N)
            for row in similarities:
                row = row if chosen is None else row[chosen]
                best = top_of_row(row, min(k, len(row)))
                places = best if chosen is None else chosen[best]
                results.append(
                    [
                        rows[place]._replace(similarity=value)
                        for place, value in zip(
                            places.tolist(), row[best].tolist(), strict=True
                        )
                    ]
                )
        return results

    def flush(self) -> None:
        """Nothing is to be written."""

    def close(self) -> None:
        """Nothing is to be closed."""

    def _arrays(self):
        """Rows, their vectors `(N, D)`, and the places of each label."""
        if self._held is None:
            rows = list(self._rows.values())
            vectors = np.empty((len(rows), self.about["units"]), np.float32)
            of_label: dict[str, list[int]] = {}
            for place, row in enumerate(rows):
                vectors[place] = row.vector
                of_label.setdefault(row.label, []).append(place)
            places = {label: np.array(of) for label, of in of_label.items()}
            self._held = rows, vectors, places
        return self._held
