"""Rows of an index in Milvus: a local file, or servers.

`photos.db` is a folder that Milvus Lite keeps, in this process; `http://host:19530` is
a server of a cluster. Both are spoken to by `pymilvus`, in the same way.

An image is a row whose key is a digest of its path. So a row that is written twice is
there once: interrupted work is done again, and of two writers on servers none
spoils what the other wrote. A local file has one process at a time, which holds a lock.

What the index is of stands in a second, small collection: Milvus Lite keeps no
description of a collection.

Dimension key: Q queries, N images, D units, k results.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from keras_aploss.files import locked
from keras_aploss.search.memory import Row, key_of

SERVERS = ("http://", "https://", "tcp://", "unix:")
INDEX_TYPES = ("FLAT", "HNSW", "AUTOINDEX")
MAX_RESULTS = 16384  # of one query, a limit of Milvus
_MESSAGE_BYTES = 2**24  # of vectors in one message; servers refuse 64 MiB
_BATCH = 16384
_LENGTHS = {"key": 32, "path": 8192, "label": 1024, "label_key": 32, "image_id": 128}
_FIELDS = ["path", "label", "image_id"]
_BUILD = {"HNSW": {"M": 32, "efConstruction": 360}}
_LOCK = "keras_aploss.lock"  # in the folder of a local index
_SECONDS = 60.0  # that a server may take to answer


class MilvusRows:
    """A collection of Milvus.

    Args:
        location: a path that ends in `.db`, or the address of a server.
        name: of the collection.
        token: `user:password` or an API key, where a server asks for it.

    Attributes:
        about: what the index is of; None if it does not exist yet.

    Raises:
        ImportError: without the extra `search`.
        OSError: another process has the file open, or the server does not answer.
    """

    def __init__(self, location: str, name: str, token: str | None = None):
        pymilvus = _pymilvus(location)
        self._types, self._error = pymilvus.DataType, pymilvus.MilvusException
        self._location, self._name = location, name
        self._failed, self._client, self._lock = False, None, None
        self._is_local = not location.startswith(SERVERS)
        self._is_made = self._is_local and not os.path.exists(location)
        try:
            if self._is_local:
                pathlib.Path(location).mkdir(parents=True, exist_ok=True)
                self._lock = _lock(location)
            with self._explained("open"):
                self._client = pymilvus.MilvusClient(
                    location, token=token or "", timeout=_SECONDS
                )
                self.about = self._read_about()
                if self.about is not None:
                    self._make_rows(self.about)
        except BaseException:
            self.close()
            raise

    def create(self, about: dict) -> None:
        """Make the collections, and note what the index is of."""
        types = self._types
        with self._explained("create"):
            schema = self._client.create_schema(auto_id=False)
            schema.add_field("key", types.VARCHAR, is_primary=True, max_length=32)
            schema.add_field("about", types.VARCHAR, max_length=65535)
            # A collection without vectors is not allowed.
            schema.add_field("vector", types.FLOAT_VECTOR, dim=2)
            self._make(f"{self._name}_about", schema, "FLAT")
            row = {"key": "about", "about": json.dumps(about), "vector": [1.0, 0.0]}
            self._client.upsert(f"{self._name}_about", [row])
            self._make_rows(about)
        self.about = about

    def _read_about(self):
        name = f"{self._name}_about"
        if not self._client.has_collection(name):
            return None
        self._client.load_collection(name)
        rows = self._client.get(name, ids=["about"], output_fields=["about"])
        return json.loads(rows[0]["about"]) if rows else None

    def _make_rows(self, about):
        types = self._types
        schema = self._client.create_schema(auto_id=False)
        for field, length in _LENGTHS.items():
            is_key = field == "key"
            schema.add_field(field, types.VARCHAR, max_length=length, is_primary=is_key)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=about["units"])
        self._make(self._name, schema, about["index_type"])

    def _make(self, name, schema, index_type):
        """Load a collection, and create what there is not, after a kill too."""
        client = self._client
        if not client.has_collection(name):
            client.create_collection(name, schema=schema, consistency_level="Strong")
        if not client.list_indexes(name):
            params = client.prepare_index_params()
            build = _BUILD.get(index_type, {})
            params.add_index(
                "vector", index_type=index_type, metric_type="IP", params=build
            )
            # Of no rows yet: there is nothing to wait for.
            client.create_index(name, params, sync=False)
        client.load_collection(name)

    def count(self) -> int:
        """N."""
        with self._explained("count"):
            found = self._client.query(
                self._name, filter="", output_fields=["count(*)"]
            )
        return int(found[0]["count(*)"])

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, or replace those of the same path."""
        self._require_sound()
        step = self._rows_per_message()
        for start in range(0, len(rows), step):
            records = [
                {
                    "key": key_of(row.path),
                    "path": row.path,
                    "label": row.label,
                    "label_key": key_of(row.label),
                    "image_id": row.id,
                    "vector": row.vector,
                }
                for row in rows[start : start + step]
            ]
            with self._explained("write to", writing=True):
                self._client.upsert(self._name, records)

    def remove(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths; those that are not there, too."""
        self._require_sound()
        for start in range(0, len(paths), 1000):
            keys = [key_of(path) for path in paths[start : start + 1000]]
            with self._explained("delete from", writing=True):
                self._client.delete(self._name, ids=keys)

    def get(self, paths: Sequence[str]) -> dict[str, Row]:
        """The rows of these paths that are there, by their path."""
        found = {}
        step = min(1000, self._rows_per_message())
        for start in range(0, len(paths), step):
            keys = [key_of(path) for path in paths[start : start + step]]
            with self._explained("read"):
                records = self._client.get(
                    self._name, ids=keys, output_fields=[*_FIELDS, "vector"]
                )
            found |= {record["path"]: _row(record) for record in records}
        return found

    def scan(self, *, vectors: bool = False) -> Iterator[list[Row]]:
        """Yield all rows in lists."""
        fields = [*_FIELDS, "vector"] if vectors else _FIELDS
        size = self._rows_per_message() if vectors else _BATCH
        # Keys are digests, so that ranges of them hold about equally many: half of
        # what a message may, since some hold more. Not a `query_iterator`, which asks
        # for a time that Milvus Lite does not tell.
        parts = 1 + 2 * self.count() // min(_BATCH, size)
        bounds = [f"{i * 16**8 // parts:08x}" for i in range(parts)] + ["g"]
        for least, above in itertools.pairwise(bounds):
            with self._explained("read"):
                records = self._client.query(
                    self._name,
                    filter=f'key >= "{least}" and key < "{above}"',
                    output_fields=fields,
                )
            yield [_row(record) for record in records]

    def nearest(
        self, queries: np.ndarray, k: int, labels: Sequence[str] | None
    ) -> list[list[Row]]:
        """Of each query k of the most similar rows, most similar first, or all.

        Which of equal ones, and in which order, is up to the engine.
        """
        filters = ""
        if labels is not None:
            keys = ", ".join(f'"{key_of(label)}"' for label in labels)
            filters = f"label_key in [{keys}]"
        results = []
        k = min(k, MAX_RESULTS)
        step = max(1, self._rows_per_message() // k)
        settings = {"ef": min(32768, max(256, 2 * k))}
        if self.about["index_type"] != "HNSW":
            settings = {}
        for start in range(0, len(queries), step):
            with self._explained("search"):
                found = self._client.search(
                    self._name,
                    data=list(queries[start : start + step]),
                    filter=filters,
                    limit=k,
                    output_fields=[*_FIELDS, "vector"],
                    search_params={"metric_type": "IP", "params": settings},
                )
                results += [
                    [_row(hit["entity"], hit["distance"]) for hit in hits]
                    for hits in found
                ]
        return results

    def flush(self) -> None:
        """Bring what was written into its final files."""
        self._require_sound()
        with self._explained("write to", writing=True):
            self._client.flush(self._name)

    def close(self) -> None:
        """Close the connection, and free a local file for other processes."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            if self._is_local:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self._location)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def drop(self) -> None:
        """Remove the collections, and the folder if it was made for them; close."""
        try:
            with self._explained("remove"):
                for name in (self._name, f"{self._name}_about"):
                    self._client.drop_collection(name)
        finally:
            self.close()
            if self._is_made:
                shutil.rmtree(self._location, ignore_errors=True)

    def _rows_per_message(self):
        return max(1, _MESSAGE_BYTES // (4 * self.about["units"]))

    def _require_sound(self):
        if self._failed:
            raise OSError(
                f"Expected to write to {self._location!r} after a write that "
                "succeeded. Received: one that failed. Open the index anew."
            )

    @contextlib.contextmanager
    def _explained(self, deed, writing=False):
        try:
            yield
        except self._error as error:
            # What follows a torn write may hide it: nothing more is written.
            self._failed = self._failed or writing
            reason = " ".join(str(getattr(error, "message", error)).split())
            advice = "Is the server running, and is this its address?"
            if self._is_local:
                advice = "Make room if the disk is full; what was written before stays."
            raise OSError(
                f"Expected to {deed} the index {self._location!r}. Received: {reason}. "
                f"{advice}"
            ) from error


def _pymilvus(location):
    try:
        import pymilvus

        if not location.startswith(SERVERS):
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Expected `pymilvus` and `milvus-lite`, which keep an index on disk and "
            f"speak to servers. Received: {error}. Install them with "
            "`pip install 'keras_aploss[search]'`."
        ) from error
    return pymilvus


def _lock(location):
    """Hold the folder of a local index, as long as the stack that is returned."""
    stack = contextlib.ExitStack()
    try:
        stack.enter_context(
            locked(os.path.join(location, _LOCK), f"the index {location!r}")
        )
    except BlockingIOError as error:
        raise OSError(
            f"{error} Several processes at a time need a server: `milvus-lite server "
            f"--data-dir {location} --port 19530`, then http://127.0.0.1:19530 as the "
            "index."
        ) from error
    return stack


def _row(record, similarity=None):
    vector = record.get("vector")
    return Row(
        record["path"],
        record["label"],
        record["image_id"],
        None if vector is None else np.asarray(vector, np.float32),
        similarity,
    )
