"""Lists of images that commands read."""

import importlib
import os
import pathlib

import numpy as np
import pytest

from keras_aploss.cli.lists import paths_in, rows_in
from keras_aploss.datasets import listed_rows
from keras_aploss.embeddings import EmbeddedBatch, ShardFolder
from keras_aploss.tables import write_table

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


def test_the_lines_of_a_text_file_end_where_an_editor_ends_them(tmp_path):
    names = ["a\u2028b.png", "a\x85b.png", "a\x0bb.png", "a\x1cb.png", "c.png"]
    text = "\r\n".join(["  c.png ", "", *names])
    (tmp_path / "list.txt").write_bytes(text.encode())
    paths = [
        os.path.relpath(path, tmp_path)
        for path, _ in listed_rows(tmp_path / "list.txt")[0]
    ]
    assert paths == ["c.png", *names]


def test_of_several_forms_of_a_name_that_of_the_file_counts(tmp_path):
    files = ["cafe\u0301.png", "\xfc.png", " a .png", "b.png "]
    for name in files:
        (tmp_path / name).touch()
    lines = ["caf\xe9.png", "u\u0308.png", " a .png", "b.png ", " d\xe9.png ", "e.png "]
    (tmp_path / "list.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f'"{line}",cafe\u0301\n' for line in lines), "utf-8"
    )
    for name, label in (("list.txt", ""), ("list.csv", "caf\xe9")):
        expected = [(str(tmp_path / f), label) for f in [*files, "d\xe9.png", "e.png"]]
        assert listed_rows(tmp_path / name)[0] == expected


def test_a_table_that_was_written_here_is_a_list_again(tmp_path):
    names = [os.fsdecode(b"caf\xe9.png"), " a.png ", "new\nline.png", 'quo"te,.png']
    paths = [str(tmp_path / name) for name in names]
    for path in paths:
        pathlib.Path(path).touch()
    write_table(tmp_path / "list.csv", ["path"], [[path] for path in paths])
    assert [path for path, _ in listed_rows(tmp_path / "list.csv")[0]] == paths


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_list_in_another_encoding_is_told(tmp_path, suffix):
    (tmp_path / "caf\xe9.png").touch()
    file = tmp_path / f"list.{suffix}"
    file.write_bytes(b"path\ncaf\xe9.png\n")
    with pytest.raises(ValueError, match="is not UTF-8 and no file"):
        listed_rows(file)


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
        ("a.txt", b"\xff\xfea\0", "which is in UTF-16"),
        ("a.csv", b"file\na.png", "no path"),
        ("a.csv", b'path\n"a.png', "Save it again"),
        ("a.csv", b"", "no path"),
    ],
)
def test_a_list_that_is_none_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        listed_rows(tmp_path / name)
