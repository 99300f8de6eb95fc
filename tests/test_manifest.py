"""Images listed in a CSV file: labels, splits, queries, mistakes."""

import csv
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_aploss.datasets import image_manifest
from keras_aploss.evaluation import evaluate_leave_one_out


def save_image(path, colour=(200, 40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def write_csv(path, rows, encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three good images and a bad one."""
    root = tmp_path / "photos"
    save_image(root / "tower" / "b.png", (10, 200, 10))
    save_image(root / "tower" / "A.JPG", (200, 10, 10))
    save_image(root / "bridge" / "one.jpeg", (90, 90, 90))
    (root / "bridge" / "zero.jpg").write_bytes(b"")
    return root


def test_splits_share_one_numbering(folder):
    rows = [
        ["path", "label", "class_name", "split", "remark"],
        ["tower/b.png", "10", "Old Tower", "train", "x"],
        ["tower/A.JPG", "10", "Old Tower", "test", ""],
        ["bridge/one.jpeg", "9", "Bridge, great", "test", ""],
        ["bridge/zero.jpg", "9", "Bridge, great", "train", ""],
    ]
    sets = image_manifest(write_csv(folder / "list.csv", rows), image_size=16)
    assert list(sets) == ["test", "train"]
    assert sets["train"].class_names == ["Bridge, great", "Old Tower"]
    assert sets["test"].class_names == sets["train"].class_names
    assert sets["train"].labels.tolist() == [1]
    assert sets["test"].labels.tolist() == [1, 0]
    assert not sets["test"].skipped
    assert sets["train"].skipped == [
        (str(folder / "bridge" / "zero.jpg"), "the file is empty")
    ]
    np.testing.assert_array_equal(sets["train"].images[0][8, 8], (10, 200, 10))


def test_no_split_root_quotes_and_byte_order_mark(folder, tmp_path):
    save_image(folder / "a, b.png")
    rows = [["label", "path"], ["été", "a, b.png"], ["abc", "tower/b.png"]]
    path = write_csv(tmp_path / "list.csv", rows, encoding="utf-8-sig")
    sets = image_manifest(path, image_size=16, root=folder)
    assert list(sets) == ["all"]
    assert sets["all"].class_names == ["abc", "été"]
    assert sets["all"].labels.tolist() == [1, 0]
    assert sets["all"].images.paths[0] == str(folder / "a, b.png")


def test_absolute_paths_spaces_and_blank_lines(folder):
    path = folder / "list.csv"
    path.write_text(f"path , label\n\n{folder / 'tower' / 'b.png'} , 5 \r\n\n")
    sets = image_manifest(path, image_size=16, root="elsewhere")
    assert sets["all"].class_names == ["5"]
    assert len(sets["all"].images) == 1


def test_a_label_without_image_is_left_out(folder, caplog):
    rows = [["path", "label"], ["tower/b.png", "7"], ["missing.png", "3"]]
    with caplog.at_level(logging.WARNING, logger="keras_aploss.datasets"):
        sets = image_manifest(write_csv(folder / "l.csv", rows), image_size=16)
    assert sets["all"].class_names == ["7"]
    assert sets["all"].labels.tolist() == [0]
    assert [record.args[0] for record in caplog.records] == ["3"]
    assert "does not exist" in sets["all"].skipped[0].reason


def test_an_image_listed_in_two_splits(folder):
    rows = [["path", "label", "split"]]
    rows += [["tower/b.png", "a", split] for split in ("one", "two")]
    rows += [["bridge/zero.jpg", "a", split] for split in ("one", "two")]
    sets = image_manifest(write_csv(folder / "l.csv", rows), image_size=16)
    for name in ("one", "two"):
        assert len(sets[name].images) == 1
        assert len(sets[name].skipped) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no path and no label"),
        ("path;label\na;b\n", "no path and no label"),
        ("path,name\na,b\n", r"\['path', 'name'\]: no label"),
        ("path,label\n", "none after its header"),
        ("path,label\na.png\n", "no label in line 2"),
        ("path,label,split\na.png,1, \n", "no split in line 2"),
        ("path,label,query\na.png,1,maybe\n", "query='maybe', neither.*in line 2"),
        ("path,label,database\na.png,1,1\nb,2,-1\n", "database='-1'.*in line 3"),
        ("path,label,split,query\na.png,1,,0\n", "no split in line 2"),
        ("path,label\na,b.png,1\n", "3 cells for 2 columns in line 2"),
        ('path,label\n"a.png,1\n', "in which"),
        ("path,label\na.png,1\n", "all unreadable"),
        ("path,label,class_name\na.png,1,A\nb.png,1,B\n", "one class name"),
    ],
)
def test_tables_that_can_not_be_read(folder, text, message):
    path = folder / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        image_manifest(path, image_size=16)
    assert str(error.value).startswith("Expected")


def test_files_that_are_no_table(folder):
    for path in (folder, folder / "nowhere.csv"):
        with pytest.raises(ValueError, match="is not a file"):
            image_manifest(path, image_size=16)
    with pytest.raises(ValueError, match="UTF-8"):
        image_manifest(folder / "bridge" / "one.jpeg", image_size=16)


@pytest.fixture
def flat(tmp_path):
    """Six images."""
    for name in "abcdef":
        save_image(tmp_path / f"{name}.png")
    return tmp_path


def names(image_set):
    return "".join(pathlib.Path(path).stem for path in image_set.images.paths)


@pytest.mark.parametrize("labels", [("10", "9"), ("crow", "bat")])
def test_negative_labels_are_distractors(flat, labels, caplog):
    first, second = labels
    rows = [["path", "label", "class_name"], ["a.png", first, "A"]]
    rows += [["b.png", "-1", "none"], ["c.png", second, "B"], ["d.png", "-7", "other"]]
    rows += [["e.png", "-1", "nothing"], ["f.png", first, "A"], ["g.png", "-2", "x"]]
    found = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)["all"]
    assert found.labels.tolist() == [1, -1, 0, -1, -1, 1]
    assert found.labels.dtype == np.int64
    assert found.class_names == ["B", "A"]
    assert not caplog.records  # g.png is in `skipped`; no class is lost


def test_numbers_that_pandas_made_floats_are_the_integers(flat):
    """As `to_csv` writes a column of integers in which one label was missing."""
    labels = ["3.0", "-1.0", "12.0", "3", "2.5", "3.000"]
    rows = [["path", "label"]]
    rows += [
        [f"{name}.png", label] for name, label in zip("abcdef", labels, strict=True)
    ]
    found = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)["all"]
    assert [found.class_names[k] if k >= 0 else None for k in found.labels] == [
        "3", None, "12", "3", "2.5", "3",
    ]  # fmt: skip
    rows = rows[:5]
    found = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)["all"]
    assert found.class_names == ["3", "12"]
    assert found.labels.tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("label", ["nan", "NaN", "None", "null", "<NA>"])
def test_what_programs_write_for_a_missing_label_is_no_class(flat, label):
    rows = [["path", "label"], ["a.png", "x"], ["b.png", label]]
    with pytest.raises(ValueError, match="with no label in line 3"):
        image_manifest(write_csv(flat / "l.csv", rows), image_size=16)


def test_composed_and_decomposed_letters_are_one_label(flat):
    rows = [["path", "label", "class_name"]]
    rows += [["a.png", "caf\xe9", "Caf\xe9"], ["b.png", "cafe\u0301", "Cafe\u0301"]]
    found = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)["all"]
    assert found.class_names == ["Caf\xe9"]
    assert found.labels.tolist() == [0, 0]


def test_a_file_is_once_in_a_set_and_has_one_label(flat):
    rows = [["path", "label", "split"], ["a.png", "1", "test"], ["b.png", "1", "test"]]
    rows += [
        ["./a.png", "1.0", "test"],
        ["a.png", "1", "train"],
        ["c.png", "2", "test"],
    ]
    sets = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)
    assert names(sets["test"]) == "abc"
    assert names(sets["train"]) == "a"
    assert sets["test"].skipped == [
        (f"{flat}/./a.png", "line 4, which lists it again after line 2")
    ]
    assert not sets["train"].skipped
    rows += [["./b.png", "-1", "train"]]
    with pytest.raises(
        ValueError, match="under '1' in line 3 and under '-1' in line 7"
    ):
        image_manifest(write_csv(flat / "l.csv", rows), image_size=16)


def test_distractors_neither_query_nor_are_relevant(flat):
    rows = [["path", "label"], *([f"{name}.png", "-1"] for name in "abcd")]
    rows += [["e.png", "0"], ["f.png", "0"]]
    labels = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)[
        "all"
    ].labels
    embeddings = np.eye(6, dtype="float32")
    result = evaluate_leave_one_out(embeddings, labels, ks=(1,))
    assert np.isfinite(result.average_precision).tolist() == [False] * 4 + [True] * 2


def test_query_and_database_columns(flat):
    rows = [["path", "label", "query", "database"]]
    rows += [["a.png", "x", "1", "0"], ["b.png", "x", "no", "TRUE"]]
    rows += [["c.png", "y", "Yes", "true"], ["d.png", "y", "", "1"]]
    rows += [["e.png", "-1", "false", "yes"], ["f.png", "z", "", ""]]
    sets = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)
    assert {name: names(found) for name, found in sets.items()} == {
        "all": "f",
        "query": "ac",
        "database": "bcde",
    }
    assert sets["query"].labels.tolist() == [0, 1]
    assert sets["database"].labels.tolist() == [0, 1, 1, -1]
    assert sets["query"].class_names == ["x", "y", "z"]


def test_query_and_database_columns_beside_split(flat):
    rows = [["path", "label", "split", "query", "database"]]
    rows += [["a.png", "x", "train", "", ""], ["b.png", "y", "", "1", "0"]]
    rows += [["c.png", "y", "test", "0", "1"], ["d.png", "y", "query", "", "0"]]
    rows += [["e.png", "y", "test", "1", "1"], ["gone.png", "y", "", "1", "1"]]
    sets = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)
    assert {name: names(found) for name, found in sets.items()} == {
        "train": "a",
        "query": "bde",
        "database": "ce",
    }
    for name in ("query", "database"):
        assert [item.path for item in sets[name].skipped] == [str(flat / "gone.png")]
    assert not sets["train"].skipped


def test_one_of_the_two_columns(flat):
    rows = [["path", "label", "query"], ["a.png", "x", "1"], ["b.png", "x", "0"]]
    sets = image_manifest(write_csv(flat / "l.csv", rows), image_size=16)
    assert {name: names(found) for name, found in sets.items()} == {
        "query": "a",
        "all": "b",
    }
