"""Lists of images that commands read."""

import importlib
import os
import pathlib

import numpy as np
import pytest

from keras_aploss.cli.lists import paths_in, rows_in
from keras_aploss.datasets import listed_rows
from keras_aploss.embeddings import EmbeddedBatch, ShardFolder

NAMES = ["a b.png", "ü.png", "deeper/1.png"]
LABELS = ["crow", "", "jäy"]


def expected(folder):
    return [(str(folder / n), label) for n, label in zip(NAMES, LABELS, strict=True)]


def test_labels_of_a_folder_are_its_sub_folders(tmp_path):
    for name in ("top.png", "crow/1.png", "crow/deeper/2.PNG", "jay/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows, others = listed_rows(tmp_path)
    assert [(os.path.relpath(path, tmp_path), label) for path, label in rows] == [
        ("crow/1.png", "crow"),
        ("crow/deeper/2.PNG", "crow"),
        ("top.png", ""),
    ]
    assert [path for path, _ in others] == [str(tmp_path / "jay" / "3.webp")]
    given = tmp_path / "top.png", tmp_path, tmp_path / "crow"
    assert paths_in(given)[0] == [rows[2][0], rows[0][0], rows[1][0]]


def test_a_csv_file_has_paths_and_labels(tmp_path):
    lines = ["label, path ,more", 'crow,"a b.png",1', ",ü.png,2", "jäy,deeper/1.png,3"]
    (tmp_path / "list.csv").write_text("\n".join(lines), "utf-8-sig")
    assert listed_rows(tmp_path / "list.csv") == (expected(tmp_path), [])
    (tmp_path / "paths.csv").write_text("path\na.png\n\n")
    assert listed_rows(tmp_path / "paths.csv")[0] == [(str(tmp_path / "a.png"), "")]


@pytest.mark.parametrize("name", ["list.parquet", "list.PQ"])
def test_a_parquet_file_has_paths_and_labels(tmp_path, name):
    pytest.importorskip("pyarrow")
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    table = {"label": ["crow", None, "jäy"], "path": NAMES, "size": [1, 2, 3]}
    parquet.write_table(arrow.table(table), tmp_path / name)
    assert listed_rows(tmp_path / name) == (expected(tmp_path), [])
    names = [" space ", "new\nline", None, "/elsewhere/a.png"]
    parquet.write_table(arrow.table({"path": names}), tmp_path / name)
    rows, _ = listed_rows(tmp_path / name)
    assert rows == [
        (str(tmp_path / " space "), ""),
        (str(tmp_path / "new\nline"), ""),
        ("/elsewhere/a.png", ""),
    ]


def test_a_parquet_file_without_paths_is_told(tmp_path):
    pytest.importorskip("pyarrow")
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    file = tmp_path / "list.parquet"
    parquet.write_table(arrow.table({"file": ["a"]}), file)
    with pytest.raises(ValueError, match=r"columns are \['file'\]: no path"):
        listed_rows(file)
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"Expected a Parquet file.*list\.parquet"):
        listed_rows(file)


def test_shards_are_a_list_of_their_images(tmp_path):
    pytest.importorskip("pyarrow")
    paths = [str(tmp_path / name) for name in ("a b.png", "ü.png", "1.png")]
    for path in paths:
        pathlib.Path(path).write_bytes(b"hashed, and nothing else")
    folder = tmp_path / "shards"
    with ShardFolder(folder, {}, paths, LABELS, units=2, shard_size=2) as work:
        for part in work.missing:
            with pytest.raises(ValueError, match="all 2 shards"):
                rows_in(folder)
            work.write(part, [EmbeddedBatch(np.ones((len(part), 2)))])
    assert rows_in(folder) == (list(zip(paths, LABELS, strict=True)), [])
    assert paths_in([folder]) == (paths, [])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", b"\n \n", "which has none"),
        ("a.txt", b"\xff\xfe", "in UTF-8"),
        ("a.csv", b"file\na.png", "no path"),
        ("a.csv", b'path\n"a.png', "Save it again"),
        ("a.csv", b"", "no path"),
    ],
)
def test_a_list_that_is_none_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        listed_rows(tmp_path / name)
