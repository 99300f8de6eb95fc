"""The images that a run is trained and evaluated on."""

import csv
import dataclasses

import numpy as np
import pytest
from image_folders import make_folder, make_manifest, rows

from keras_aploss import ImageSet, RunSettings
from keras_aploss.runs.data import (
    check_test_set,
    choose_test_set,
    list_skipped,
    read_image_sets,
    read_run_data,
)


@pytest.fixture
def photos(tmp_path):
    return make_folder(tmp_path / "photos", "abcdefgh")


def settings_for(data, **changes):
    return RunSettings(data=str(data), image_size=16, **changes)


def test_a_folder_is_split_by_classes(photos):
    data = read_run_data(settings_for(photos, seed=3))
    assert len(np.unique(data.test.labels)) == 2
    assert not set(data.train.labels) & set(data.test.labels)
    assert len(data.train.labels) + len(data.test.labels) == 24
    other = read_run_data(settings_for(photos, seed=4))
    assert set(other.test.labels) != set(data.test.labels)


def test_folders_named_train_and_test_are_the_splits(tmp_path, caplog):
    make_folder(tmp_path / "set" / "train", "abc")
    make_folder(tmp_path / "set" / "test", "xy")
    data = read_run_data(settings_for(tmp_path / "set"))
    names = [[part.class_names[k] for k in part.labels[::3]] for part in (data.train,
             data.test)]  # fmt: skip
    assert names == [["a", "b", "c"], ["x", "y"]]
    assert data.seen == set()
    assert not caplog.text


def test_folders_of_the_same_classes_are_told(tmp_path, caplog):
    """By their names, not by the order in which they are found."""
    make_folder(tmp_path / "set" / "train", "abc")
    make_folder(tmp_path / "set" / "test", "bz", size=(30, 40))  # other images
    data = read_run_data(settings_for(tmp_path / "set"))
    assert [data.test.class_names[k] for k in data.seen] == ["b"]
    assert "1 classes are in the training and in the test set, such as 'b'" in (
        caplog.text
    )


def test_a_manifest_names_the_splits(tmp_path, photos):
    split_of = {"a": "train", "b": "train", "c": "test", "d": "test", "e": "spare"}
    table = make_manifest(tmp_path / "list.csv", rows(split_of))
    data = read_run_data(settings_for(table))
    named = [[part.class_names[i] for i in part.labels] for part in (data.train,
             data.test)]  # fmt: skip
    assert named == [["a"] * 3 + ["b"] * 3, ["c"] * 3 + ["d"] * 3]
    assert data.queries is None


@pytest.mark.parametrize("augment", [True, False])
def test_images_in_memory_and_on_disk_are_the_same(photos, augment):
    settings = settings_for(photos, augment=augment)
    cached = read_run_data(settings)
    lazy = read_run_data(dataclasses.replace(settings, cache_gib=0.0))
    assert isinstance(cached.test.images, np.ndarray)
    assert not isinstance(lazy.test.images, np.ndarray)
    for part in ("train", "test"):
        images, files = getattr(cached, part).images, getattr(lazy, part).images
        assert len(images) == len(files) > 0
        for i in range(len(images)):
            np.testing.assert_array_equal(images[i], files[i])
    # Augmentation crops from the whole image, evaluation sees the central square.
    assert cached.train.images[0].shape == ((18, 24, 3) if augment else (16, 16, 3))
    assert (
        cached.evaluation_crops[0].shape == cached.test.images[0].shape == (16, 16, 3)
    )


@pytest.mark.parametrize(
    ("split_of", "message"),
    [
        ({"a": "train", "b": "train"}, r"splits train and test.*\['train'\]"),
        ({"a": "test", "b": "test"}, r"splits train and test.*\['test'\]"),
        ({"a": "train", "b": "query"}, r"splits train and test.*'query', 'train'"),
        ({"a": "train", "b": "test", "c": "test"}, "two classes or more.*Received: 1"),
    ],
)
def test_splits_that_are_missing_or_too_small_are_refused(
    tmp_path, photos, split_of, message
):
    table = make_manifest(tmp_path / "list.csv", rows(split_of))
    with pytest.raises(ValueError, match=message):
        read_run_data(settings_for(table))


def test_a_folder_of_one_class_is_refused(tmp_path):
    make_folder(tmp_path / "one", "a")
    with pytest.raises(ValueError, match=r"at least two classes.*Received: 1"):
        read_run_data(settings_for(tmp_path / "one"))


def test_a_test_set_without_two_of_a_class_is_refused(tmp_path):
    make_folder(tmp_path / "lonely", "abcdefgh", views=1)
    with pytest.raises(ValueError, match=r"another image of its class.*Add images"):
        read_run_data(settings_for(tmp_path / "lonely"))


def test_queries_whose_class_is_not_in_the_database_are_refused():
    test = ImageSet(np.zeros((4, 8, 8, 3), "uint8"), np.array([0, 0, 1, 1]), ["a", "b"])
    check_test_set(test, np.array([0, 2]))
    with pytest.raises(ValueError, match="another image of its class"):
        check_test_set(test, np.array([0, 1]))


def test_a_test_set_of_one_class_is_doubtful(tmp_path, caplog):
    make_folder(tmp_path / "three", "abc")
    read_run_data(settings_for(tmp_path / "three"))
    assert "every ranking of it is perfect" in caplog.text


def test_classes_in_both_splits_are_told(tmp_path, photos, caplog):
    split_of = {"a": "train", "b": "train", "c": "test", "d": "test"}
    table = rows(split_of)
    table[0] = (*table[0][:2], "test")
    data = read_run_data(settings_for(make_manifest(tmp_path / "list.csv", table)))
    assert data.seen == {0}
    assert "1 classes are in the training and in the test set" in caplog.text
    assert "'a'" in caplog.text


def test_a_skipped_file_is_listed_once(tmp_path, photos, caplog):
    (photos / "a" / "bad.png").write_bytes(b"")
    data = read_run_data(settings_for(photos))
    list_skipped(tmp_path, data.skipped)
    with open(tmp_path / "skipped.csv", newline="", encoding="utf-8") as file:
        listed = list(csv.reader(file))
    bad = str(photos / "a" / "bad.png")
    assert listed == [["path", "reason"], [bad, "the file is empty"]]
    assert "1 files or classes are left out" in caplog.text


@pytest.mark.parametrize("database", ["gallery", "database"])
def test_queries_come_before_their_database(tmp_path, photos, database):
    split_of = {"a": "query", "b": database, "c": "test"}
    table = make_manifest(tmp_path / "list.csv", rows(split_of))
    both, queries = choose_test_set(read_image_sets(settings_for(table)))
    assert [both.class_names[i] for i in both.labels] == ["a"] * 3 + ["b"] * 3
    assert queries.tolist() == [0, 1, 2]
    assert len(both.images) == 6
