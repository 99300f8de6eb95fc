"""Parquet shards: what they hold, whole or not at all."""

import importlib
import os
import resource
import signal
import sys

import numpy as np
import pytest

from keras_aploss import VectorIndex
from keras_aploss.embeddings import EmbeddingShard, read_shards
from keras_aploss.embeddings.shard_folder import ShardFolder
from keras_aploss.embeddings.shards import (
    is_shard_folder,
    read_about,
    read_manifest,
    read_shard,
    shard_path,
    write_shard,
)

pytest.importorskip("pyarrow")

VECTORS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
PATHS = ["/a b.png", "/new\nline.png", "/ü.png", "/🙂.png", '/"q",.png', "/5.png", "/6"]
LABELS = ["crow", "", "jäy", "a\nb", "", "crow", "crow"]
IDS = [f"{number:032x}" for number in range(7)]


def rows(start, stop):
    part = slice(start, stop)
    return EmbeddingShard(IDS[part], VECTORS[part], PATHS[part], LABELS[part])


def write_all(folder, numbers=(0, 1, 2)):
    """A folder of three shards of three images at most, written as workers do."""
    settings = {"scales": [1.0]}
    folder_of = ShardFolder(folder, settings, PATHS, LABELS, units=3, shard_size=3)
    with folder_of as work:
        for number in numbers:
            shard = rows(3 * number, 3 * number + 3)
            about = {"settings": work.writer.digest, "skipped": []}
            write_shard(shard_path(folder, number), shard, about)
        work.look()
        if not work.missing:
            work.finish()
    return folder


def test_what_was_written_is_read_in_order(tmp_path):
    shards = list(read_shards(write_all(tmp_path / "shards")))
    assert [len(shard.ids) for shard in shards] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([s.vectors for s in shards]), VECTORS)
    assert shards[0].vectors.dtype == np.float32
    for name, expected in (("paths", PATHS), ("labels", LABELS), ("ids", IDS)):
        assert [text for s in shards for text in getattr(s, name)] == expected


def test_some_columns_are_read_without_the_others(tmp_path):
    shards = list(read_shards(write_all(tmp_path / "shards"), ["path", "label"]))
    assert [path for shard in shards for path in shard.paths] == PATHS
    assert [len(shard.ids) + len(shard.vectors) for shard in shards] == [0, 0, 0]


def test_other_readers_see_one_table(tmp_path):
    """pyarrow and pandas, given the folder, which also holds our own files."""
    write_all(tmp_path / "shards")
    arrow = importlib.import_module("pyarrow")
    dataset = importlib.import_module("pyarrow.dataset").dataset(tmp_path / "shards")
    assert dataset.schema.field("vector").type == arrow.list_(arrow.float32(), 3)
    table = dataset.to_table()
    assert table.column_names == ["id", "path", "label", "vector"]
    assert table["path"].to_pylist() == PATHS
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist()), VECTORS)
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "shards")
    assert frame["label"].tolist() == LABELS


def test_a_shard_without_rows_keeps_its_units(tmp_path):
    path = str(tmp_path / "part.parquet")
    write_shard(path, EmbeddingShard([], np.zeros((0, 5)), [], []), {"skipped": [1]})
    assert read_shard(path).vectors.shape == (0, 5)
    assert read_about(path) == {"skipped": [1], "rows": 0}


def test_shards_go_into_an_index_as_they_are(tmp_path):
    index = VectorIndex(units=3)
    for ids, vectors, paths, labels in read_shards(write_all(tmp_path / "shards")):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        index.add(ids, vectors / lengths, paths, labels)
    assert {(image.path, image.label, image.id) for image in index.images()} == set(
        zip(PATHS, LABELS, IDS, strict=True)
    )


def test_some_shards_are_not_taken_for_all(tmp_path):
    write_all(tmp_path / "shards", numbers=(0, 2))
    with pytest.raises(ValueError, match=r"all 3 shards .*Received: 2; .*part-000001"):
        next(read_shards(tmp_path / "shards"))


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_shard_that_was_cut_short_is_named(tmp_path, size):
    path = shard_path(write_all(tmp_path / "shards"), 1)
    os.truncate(path, size if size >= 0 else os.path.getsize(path) - 1)
    assert read_about(path) is None
    shards = read_shards(tmp_path / "shards")
    next(shards)
    with pytest.raises(ValueError, match=r"whole shard .*part-000001\.parquet"):
        next(shards)


def test_a_table_of_another_kind_is_no_shard(tmp_path):
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    path = str(tmp_path / "part.parquet")
    parquet.write_table(arrow.table({"vector": [1.0, 2.0]}), path)
    assert read_about(path) is None
    with pytest.raises(ValueError, match="Expected a whole shard"):
        read_shard(path)


def test_a_folder_that_is_none_is_told(tmp_path):
    assert not is_shard_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no readable '_manifest\.json'"):
        read_manifest(tmp_path)
    (tmp_path / "_manifest.json").write_text("[1")
    with pytest.raises(ValueError, match=r"no readable '_manifest\.json'"):
        next(read_shards(tmp_path))


def test_a_full_disk_leaves_the_old_shard_and_no_rest(tmp_path):
    """A limit on the size of files stands for the disk: writing fails as there."""
    path = str(tmp_path / "part.parquet")
    write_shard(path, rows(0, 7), {})
    large = np.random.default_rng(1).normal(size=(5000, 3))
    shard = EmbeddingShard(["1"] * 5000, large, ["/a"] * 5000, [""] * 5000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        with pytest.raises(OSError, match=r"Expected to write .*part\.parquet.*large"):
            write_shard(path, shard, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["part.parquet"]
    np.testing.assert_array_equal(read_shard(path).vectors, VECTORS)


def test_without_pyarrow_its_extra_is_told(tmp_path, monkeypatch):
    write_all(tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_aploss\[scale\]'"):
        next(read_shards(tmp_path / "shards"))
