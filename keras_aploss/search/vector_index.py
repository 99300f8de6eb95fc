"""The embeddings of images, kept with their paths, and ranked for a query.

The problem: a model turns images into embeddings once, and users ask every day which of
a million images look like this one. An index keeps the embeddings on disk or on
servers, takes additions and deletions, and answers from what it holds.

It ranks as `evaluation.top_k` does on the same embeddings in the order of their paths:
by the float32 dot product, and of equal similarities the lower path first. So what an
evaluation measured is what a user gets.

Vectors of two models cannot be compared, and no error would tell. So an index notes the
fingerprint of its model, and refuses another one.

Dimension key: Q queries, N images, D units, k results.
"""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.embeddings import expand
from keras_aploss.evaluation import top_k
from keras_aploss.search.inputs import check_location, check_texts, check_vectors
from keras_aploss.search.memory import MemoryRows, Row
from keras_aploss.search.milvus import INDEX_TYPES, MAX_RESULTS, MilvusRows
from keras_aploss.search.ranking import has_all_ties, path_of, rank

_MORE = 10  # results to ask for above k, to see where the ties of the k-th end


class IndexedImage(NamedTuple):
    """An image of an index, and how similar it is to a query (None without one).

    Example:
    >>> from keras_aploss.search import IndexedImage
    >>> IndexedImage("birds/a.jpg", "birds", "9f2c", 0.5).similarity
    0.5
    """

    path: str
    label: str
    id: str
    similarity: float | None = None


class VectorIndex:
    """Embeddings of images that can be searched, in memory, in a file or on servers.

    Args:
        location: None for memory; a path that ends in `.db` for a local file (a folder
            of Milvus Lite, one process at a time); `http://host:19530` for a Milvus
            server. The last two need `pip install 'keras_aploss[search]'`.
        units: D. Needed for a new index; checked for one that exists.
        fingerprint: of the model, see `model_fingerprint`; the same.
        name: of the collection, where a server holds several.
        token: `user:password` or an API key, where a server asks for it.
        index_type: how a new index searches: "FLAT" looks at every embedding, "HNSW"
            at a graph of neighbours, "AUTOINDEX" as the server thinks best. The last
            two may miss some images: see `recall`.
        notes: what to keep with a new index: a dictionary of JSON.

    Attributes:
        units, fingerprint, index_type, notes: of the index, new or not.
        is_new: whether it was made by this call.

    Raises:
        ImportError: the extra `search` is not installed.
        ValueError: there is no such index and `units` was not given, or there is one
            of another model or number of units.
        OSError: another process has the file open, the disk is full, or the server
            does not answer.

    Example:
    >>> from keras_aploss import VectorIndex
    >>> with VectorIndex(units=2) as index:
    ...     paths, labels = ["a.jpg", "b.jpg"], ["crow", "jay"]
    ...     index.add(["9f2c", "01ab"], [[1, 0], [0.6, 0.8]], paths, labels)
    ...     for image in index.search([[0, 1]], k=2)[0]:
    ...         print(f"{image.similarity:.1f} {image.label} {image.path}")
    0.8 jay b.jpg
    0.0 crow a.jpg
    """

    def __init__(
        self,
        location: str | os.PathLike | None = None,
        *,
        units: int | None = None,
        fingerprint: str | None = None,
        name: str = "images",
        token: str | None = None,
        index_type: str = "FLAT",
        notes: dict | None = None,
    ):
        self.location = location if location is None else os.fspath(location)
        if index_type not in INDEX_TYPES:
            raise ValueError(
                f"Expected `index_type` among {INDEX_TYPES}. Received: {index_type=}."
            )
        about = {"units": units and int(units), "fingerprint": fingerprint}
        about |= {"index_type": index_type, "notes": notes or {}}
        if self.location is None:
            self._require_units(units)
            self.is_new, self._rows = True, MemoryRows(about)
        else:
            check_location(self.location, is_new=units is not None)
            self._rows = MilvusRows(self.location, name, token)
            self.is_new = self._rows.about is None
            try:
                if self.is_new:
                    self._require_units(units)
                    self._rows.create(about)
                self.require_model(fingerprint, units)
            except BaseException:
                self._rows.close()
                raise
        about = self._rows.about
        self.units, self.fingerprint = about["units"], about["fingerprint"]
        self.index_type, self.notes = about["index_type"], about["notes"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __len__(self):
        return self._rows.count()

    def close(self) -> None:
        """Let go of the file or the server."""
        self._rows.close()

    def discard_if_empty(self) -> None:
        """`close`, and remove an index that was made by this call and has no images.

        For work that failed before it had added anything: the next try may be with
        another model, and an empty index would refuse it.
        """
        if self.location is not None and self.is_new and not len(self):
            self._rows.drop()
        self.close()

    def flush(self) -> None:
        """Bring what was added into its final files; after many additions."""
        self._rows.flush()

    def require_model(self, fingerprint: str | None, units: int | None = None) -> None:
        """Raise a `ValueError` unless the index is of this model, see above."""
        about = self._rows.about
        if fingerprint not in (None, about["fingerprint"]):
            raise ValueError(
                "Expected the model that the index was made by, with the fingerprint "
                f"{about['fingerprint']}. Received: a model with the fingerprint "
                f"{fingerprint}: other weights, or another image size. Take that "
                f"model, or another place than {self.location!r} for a new index."
            )
        if units not in (None, about["units"]):
            raise ValueError(
                f"Expected embeddings of {about['units']} units, as the index "
                f"{self.location!r} has. Received: units={units}."
            )

    def add(self, ids, vectors, paths, labels=None) -> None:
        """Add images, or replace those of the same paths.

        When it returns, a kill of the process loses none of them. Adding again what is
        there changes nothing, so interrupted work can be done again.

        Args:
            ids: of N images, texts that tell contents apart (a hash of the file).
            vectors: `(N, D)` floats of unit length.
            paths: N different texts in UTF-8; an image is known by its path.
            labels: N texts; None: no labels.

        Raises:
            ValueError: for lists of different lengths, vectors of another size or
                length, NaN, or a path that is there twice.
            OSError: they cannot be written. Some of them may be.
        """
        vectors = check_vectors(vectors, "vectors", self.units)
        labels = [""] * len(vectors) if labels is None else labels
        columns = {"id": list(ids), "path": list(paths), "label": list(labels)}
        lengths = {name: len(column) for name, column in columns.items()}
        if set(lengths.values()) != {len(vectors)}:
            raise ValueError(
                "Expected an id, a path and a label for each vector. Received: "
                f"len(vectors)={len(vectors)} and {lengths}."
            )
        for name, column in columns.items():
            check_texts(name, column)
        if len(set(columns["path"])) != len(vectors):
            raise ValueError(
                "Expected different paths. Received: one of them twice. An image is "
                "known by its path."
            )
        columns = zip(columns["path"], columns["label"], columns["id"], strict=True)
        rows = zip(columns, vectors, strict=True)
        self._rows.write([Row(*texts, vector) for texts, vector in rows])

    def delete(self, paths: Iterable[str]) -> None:
        """Take images out, by their paths. Paths that are not there are passed over."""
        self._rows.remove(list(paths))

    def images(self) -> list[IndexedImage]:
        """All images, in the order of their paths."""
        rows = [row for batch in self._rows.scan() for row in batch]
        return [IndexedImage(*row[:3]) for row in sorted(rows, key=path_of)]

    def get(self, paths: Sequence[str]) -> dict[str, tuple[IndexedImage, np.ndarray]]:
        """Images and their `(D,)` vectors, by the paths that are there."""
        found = self._rows.get(list(paths))
        return {
            path: (IndexedImage(*row[:3]), row.vector) for path, row in found.items()
        }

    def embeddings(self) -> tuple[list[IndexedImage], np.ndarray]:
        """All images and their `(N, D)` vectors, in the order of their paths.

        On these `evaluation.top_k` gives the rankings of `search`.
        """
        rows = [row for batch in self._rows.scan(vectors=True) for row in batch]
        rows.sort(key=path_of)
        vectors = np.empty((len(rows), self.units), np.float32)
        for place, row in enumerate(rows):
            vectors[place] = row.vector
        return [IndexedImage(*row[:3]) for row in rows], vectors

    def in_memory(self) -> "VectorIndex":
        """A copy in memory: exact, and faster by far, but not kept.

        For a process that answers many queries, while 4 · N · D bytes fit.
        """
        copy = VectorIndex(
            units=self.units, fingerprint=self.fingerprint, notes=self.notes
        )
        for batch in self._rows.scan(vectors=True):
            copy._rows.write(batch)
        return copy

    def search(
        self,
        queries,
        k: int = 10,
        *,
        labels: Sequence[str] | None = None,
        expand_by: int = 0,
        alpha: float = 3.0,
    ) -> list[list[IndexedImage]]:
        """The k most similar images of each query, most similar first.

        Args:
            queries: `(Q, D)` floats of unit length.
            k: how many; if there are fewer, all.
            labels: rank only the images of these labels.
            expand_by: how many of the nearest images are added to a query before it
                is answered, see `expand_queries`: 0 for none.
            alpha: the exponent of their weights.

        Returns:
            A list of `IndexedImage` for each query. Of equal similarities the lower
            path comes first.

        Raises:
            ValueError: for queries of another size or length, NaN, or `k` below 1.
            OSError: the index cannot be read.
        """
        queries = check_vectors(queries, "queries", self.units)
        for name, value, least in (("k", k, 1), ("expand_by", expand_by, 0)):
            if not isinstance(value, int | np.integer) or not (
                least <= value <= MAX_RESULTS
            ):
                raise ValueError(
                    f"Expected `{name}` from {least} to {MAX_RESULTS}. Received: "
                    f"{name}={value!r}."
                )
        if not alpha >= 0:
            raise ValueError(f"Expected `alpha` of at least 0. Received: {alpha=!r}.")
        labels = None if labels is None else list(labels)
        if expand_by:
            queries = self._expanded(queries, int(expand_by), alpha)
        return [
            [IndexedImage(*row[:3], row.similarity) for row in rows]
            for rows in self._ranked(queries, int(k), labels)
        ]

    def recall(self, k: int = 10, *, num_queries: int = 100, seed: int = 0) -> float:
        """The part of the exact k nearest that `search` finds: recall@k.

        Images of the index, drawn at random, are the queries; the reference is exact
        search in NumPy, for which all embeddings are read into memory.
        """
        images, vectors = self.embeddings()
        if not images:
            raise ValueError("Expected an index with images. Received: an empty one.")
        generator = np.random.default_rng(seed)
        size = min(num_queries, len(images))
        chosen = generator.choice(len(images), size, replace=False)
        exact, _ = top_k(vectors[chosen], vectors, min(k, len(images)))
        found = self.search(vectors[chosen], k)
        right = sum(
            len({image.path for image in ours} & {images[i].path for i in theirs})
            for ours, theirs in zip(found, exact, strict=True)
        )
        return right / exact.size

    def _ranked(self, queries, k, labels):
        """The k best rows of each query, in the order of `evaluation.top_k`."""
        ranked: list = [None] * len(queries)
        waiting, want = np.arange(len(queries)), k + _MORE
        while len(waiting):
            found = self._rows.nearest(queries[waiting], want, labels)
            for query, rows in zip(waiting, found, strict=True):
                if has_all_ties(rows, k, want, MAX_RESULTS):
                    ranked[query] = rank(queries[query], rows, k)
            waiting = np.array([i for i in waiting if ranked[i] is None], int)
            want *= 4
        return ranked

    def _expanded(self, queries, size, alpha):
        found = self._ranked(queries, size, None)
        # A graph of neighbours may find fewer for one query than for another.
        size = min((len(rows) for rows in found), default=0)
        if not size:
            return queries
        database = np.stack([row.vector for rows in found for row in rows[:size]])
        indices = np.arange(len(database)).reshape(len(queries), size)  # (Q, k)
        return expand(queries, database, indices, alpha)

    def _require_units(self, units):
        if not isinstance(units, int | np.integer) or units < 1:
            raise ValueError(
                "Expected `units`, the size of the embeddings, for a new index. "
                f"Received: {units=}, and no index at {self.location!r}."
            )
