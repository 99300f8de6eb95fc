"""Embeddings in Parquet shards: what many machines write, and many programs read.

One `.npy` file has one writer. Many workers write many files instead: a shard holds the
embeddings of some hundred images, with the id of each content, its path and its label,
and appears under its name in one step, whole. Any reader of Parquet reads a folder of
them as one table (pyarrow, pandas, DuckDB, Spark): the columns are `id`, `path`,
`label` and `vector`, a list of D float32. Files that do not belong to the table begin
with `_` or `.`, which these readers pass over.

Needs pyarrow (`pip install 'keras_aploss[scale]'`), and nothing else of that extra.

Dimension key: N rows of a shard, D units.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.files import replaced_path
from keras_aploss.tables import import_parquet

MANIFEST = "_manifest.json"
_KEY = b"keras_aploss"  # of the dictionary `about` in the footer of a shard


class EmbeddingShard(NamedTuple):
    """Rows of a folder of shards, in the order that `VectorIndex.add` takes.

    Attributes:
        ids: N digests of the contents of the files.
        vectors: `(N, D)` float32 of unit length.
        paths: N paths.
        labels: N labels, empty where there was none.

    Example:
    >>> from keras_aploss import VectorIndex
    >>> from keras_aploss.embeddings import EmbeddingShard
    >>> index = VectorIndex(units=2)
    >>> index.add(*EmbeddingShard(["9f2c"], [[0.6, 0.8]], ["a.jpg"], ["crow"]))
    >>> len(index)
    1
    """

    ids: Sequence[str]
    vectors: np.ndarray
    paths: Sequence[str]
    labels: Sequence[str]


def read_shards(
    folder: str | os.PathLike, columns: Sequence[str] | None = None
) -> Iterator[EmbeddingShard]:
    """Yield the embeddings of a folder that `extract_to_shards` wrote, in order.

    One shard is in memory at a time. Ray is not needed, only pyarrow.

    Args:
        folder: of the shards.
        columns: some of `id`, `path`, `label` and `vector`; the others stay empty. By
            default all of them.

    Returns:
        An iterator of `EmbeddingShard`, in the order of the listed images.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the folder holds no shards, or not all of them yet, or a damaged
            one.

    Example:
        for ids, vectors, paths, labels in read_shards("shards"):
            index.add(ids, vectors, paths, labels)

    >>> from keras_aploss.embeddings import read_shards
    >>> next(read_shards("nowhere"))
    Traceback (most recent call last):
    ...
    ValueError: Expected a folder of shards, as `extract_to_shards` writes it. Received:
    'nowhere', which has no readable '_manifest.json': No such file or directory. Check
    its spelling.
    """
    count = read_manifest(folder)["shards"]
    paths = [shard_path(folder, number) for number in range(count)]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise ValueError(
            f"Expected all {count} shards in {os.fspath(folder)!r}. Received: "
            f"{count - len(missing)}; {missing[0]!r} is missing. The extraction is not "
            "finished: rerun its command to resume."
        )
    for path in paths:
        yield read_shard(path, columns)


def read_manifest(folder: str | os.PathLike) -> dict:
    """The number of the shards of a folder, and the settings that they depend on."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
        return {key: manifest[key] for key in ("shards", "settings")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            "Expected a folder of shards, as `extract_to_shards` writes it. Received: "
            f"{os.fspath(folder)!r}, which has no readable {MANIFEST!r}: {reason}. "
            "Check its spelling."
        ) from error


def is_shard_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder holds shards, all of them or some."""
    return os.path.isfile(os.path.join(folder, MANIFEST))


def shard_path(folder: str | os.PathLike, number: int) -> str:
    """The file of a shard, by its number from 0."""
    return os.path.join(folder, f"part-{number:06d}.parquet")


def write_shard(path: str, shard: EmbeddingShard, about: dict) -> None:
    """Write a shard, which appears when it is whole; an old one is replaced.

    `about`, a dictionary of JSON, is kept in its footer: see `read_about`.
    """
    arrow, parquet = import_parquet()
    vectors = np.ascontiguousarray(shard.vectors, np.float32)  # (N, D)
    columns = {
        "id": arrow.array(shard.ids, arrow.string()),
        "path": arrow.array(shard.paths, arrow.string()),
        "label": arrow.array(shard.labels, arrow.string()),
        "vector": arrow.FixedSizeListArray.from_arrays(
            arrow.array(vectors.reshape(-1)), vectors.shape[1]
        ),
    }
    table = arrow.table(columns).replace_schema_metadata({_KEY: json.dumps(about)})
    with replaced_path(path) as unfinished:
        # A dictionary of values that all differ would only cost time.
        parquet.write_table(table, unfinished, use_dictionary=["label"])


def read_shard(path: str, columns: Sequence[str] | None = None) -> EmbeddingShard:
    """Read a shard, or some columns of it; the others are empty."""
    _, parquet = import_parquet()
    try:
        table = parquet.read_table(path, columns=columns, partitioning=None)
        texts = {
            name: table[name].to_pylist() if name in table.column_names else []
            for name in ("id", "path", "label")
        }
        vectors = np.zeros((0, 0), np.float32)
        if "vector" in table.column_names:
            units = table.schema.field("vector").type.list_size
            parts = [chunk.flatten().to_numpy() for chunk in table["vector"].chunks]
            vectors = np.concatenate([*parts, np.zeros(0, np.float32)])
            vectors = vectors.reshape(-1, units).astype(np.float32, copy=False)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            "Expected a whole shard of embeddings. Received: "
            f"{path!r}: {error}. Delete it, and rerun the extraction."
        ) from error
    return EmbeddingShard(texts["id"], vectors, texts["path"], texts["label"])


def read_about(path: str) -> dict | None:
    """The dictionary `about` of a shard, and its `rows`; None if it is not whole."""
    _, parquet = import_parquet()
    try:
        metadata = parquet.read_metadata(path)
        about = json.loads(metadata.metadata[_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**about, "rows": metadata.num_rows}
