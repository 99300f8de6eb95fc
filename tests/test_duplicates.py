"""Files of the same contents: known, listed, and left out of test sets."""

import os
import shutil

import numpy as np
import pytest
from image_folders import make_folder

from keras_aploss import RunSettings
from keras_aploss.evaluation import evaluate_embeddings
from keras_aploss.report import pixel_embeddings
from keras_aploss.runs import TrainedModel, read_evaluation_set
from keras_aploss.runs.data import read_run_data
from keras_aploss.runs.split import read_split, write_split


@pytest.fixture
def photos(tmp_path):
    """A training set of three classes, a test set of two."""
    make_folder(tmp_path / "photos" / "train", "abc", views=2)
    make_folder(tmp_path / "photos" / "test", "xy", views=3)
    return tmp_path / "photos"


def read(photos, **changes):
    return read_run_data(RunSettings(data=str(photos), image_size=16, **changes))


def paths_of_test(data):
    return [row.path for row in data.listed if row.split == "test"]


def test_each_photo_twice_does_not_make_the_map(photos, caplog):
    alone = read(photos)
    for path in sorted((photos / "test").rglob("*.png")):
        shutil.copyfile(path, path.with_name(f"{path.stem} copy.png"))
    kept = read(photos, keep_duplicates=True)
    assert len(kept.test.labels) == 12
    flattered = evaluate_embeddings(
        pixel_embeddings(kept.test.images), kept.test.labels
    )
    assert flattered.metrics["recall_at_1"] == 1
    data = read(photos)
    np.testing.assert_array_equal(data.test.labels, alone.test.labels)
    for image, same in zip(data.test.images, alone.test.images, strict=True):
        np.testing.assert_array_equal(image, same)
    assert "6 images of the test set are copies of other files" in caplog.text
    assert {os.path.basename(path) for path, _ in data.skipped} == {
        "0.png", "1.png", "2.png",
    }  # fmt: skip
    assert "it is a copy of" in data.skipped[0].reason


def test_a_file_that_is_trained_on_is_not_tested(photos):
    shutil.copyfile(photos / "train" / "a" / "0.png", photos / "test" / "x" / "9.png")
    data = read(photos)
    assert "test/x/9.png" not in paths_of_test(data)
    assert len(data.test.labels) == 6
    (skipped,) = data.skipped
    assert skipped.path == str(photos / "test" / "x" / "9.png")
    assert skipped.reason.startswith("it is trained on, as ")
    assert skipped.reason.endswith("a/0.png'")


def test_a_file_in_two_classes_is_of_neither(photos, caplog):
    shutil.copyfile(photos / "test" / "x" / "0.png", photos / "test" / "y" / "9.png")
    shutil.copyfile(photos / "train" / "a" / "0.png", photos / "train" / "b" / "9.png")
    data = read(photos)
    left = ["x/1", "x/2", "y/0", "y/1", "y/2"]
    assert paths_of_test(data) == [f"test/{name}.png" for name in left]
    reasons = dict(data.skipped)
    assert reasons[str(photos / "test" / "x" / "0.png")].endswith("y/9.png'")
    assert reasons[str(photos / "test" / "y" / "9.png")].endswith("x/0.png'")
    assert "1 training files are in two classes or more" in caplog.text
    assert len(data.train.labels) == 7


def test_the_list_of_a_run_knows_its_copies(photos, tmp_path, caplog):
    shutil.copyfile(photos / "test" / "x" / "0.png", photos / "test" / "x" / "9.png")
    data = read(photos)
    assert [row.path for row in data.listed if row.split == "copy"] == ["test/x/9.png"]
    path = tmp_path / "split.csv"
    write_split(path, data.listed)
    caplog.clear()
    settings = RunSettings(data=str(photos), image_size=16)
    resumed = read_run_data(settings, read_split(path))
    np.testing.assert_array_equal(resumed.test.labels, data.test.labels)
    assert [skipped.path for skipped in resumed.skipped] == [
        str(photos / "test" / "x" / "9.png")
    ]
    trained = TrainedModel(None, settings, settings, None, split_file=path)
    assert len(read_evaluation_set(trained).images.labels) == 6
    assert not caplog.text


def test_another_set_is_evaluated_without_its_copies(photos, tmp_path):
    other = make_folder(tmp_path / "other", "pq", views=2)
    shutil.copyfile(other / "p" / "0.png", other / "p" / "9.png")
    settings = RunSettings(data=str(photos), image_size=16)
    trained = TrainedModel(None, settings, settings, None, split_file=None)
    assert len(read_evaluation_set(trained, str(other)).images.labels) == 4
    whole = read_evaluation_set(trained, str(other), keep_duplicates=True)
    assert len(whole.images.labels) == 5
