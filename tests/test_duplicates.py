"""Copies of one file: found by their contents, named, and left out of the metrics."""

import os
import shutil

import numpy as np
import pytest
from image_folders import make_folder, make_manifest

from keras_aploss import ImageFiles, ImageSet, RunSettings
from keras_aploss.evaluation import evaluate_embeddings
from keras_aploss.images import find_duplicates
from keras_aploss.report import pixel_embeddings
from keras_aploss.runs import TrainedModel, read_evaluation_set
from keras_aploss.runs.data import read_run_data
from keras_aploss.runs.duplicates import leave_out_copies
from keras_aploss.runs.split import read_split, write_split


def make_photos(root, classes="abcdefgh", views=2):
    return make_folder(root, classes, views=views, size=(10, 12))


def copy_each(photos, classes="abcdefgh"):
    for name in classes:
        for path in sorted((photos / name).iterdir()):
            shutil.copyfile(path, path.with_stem(f"{path.stem}_copy"))
    return photos


def settings_for(data, **changes):
    return RunSettings(data=str(data), image_size=16, **changes)


def pixel_metrics(images, queries=None):
    """Those of a model that knows nothing."""
    embeddings = pixel_embeddings(images.images)
    return evaluate_embeddings(embeddings, images.labels, queries).metrics


def begin(data, **changes):
    settings = settings_for(data, **changes)
    run_data, path = read_run_data(settings), data.parent / "split.csv"
    write_split(path, run_data.listed)
    return TrainedModel(None, settings, settings, None, split_file=path), run_data


def names_of(images, folder):
    return [os.path.relpath(path, folder) for path in images.images.paths]


def test_files_are_compared_by_their_contents(tmp_path):
    texts = {"a": "one", "b": "two", "c": "one", "d": "three", "e": "two", "f": "six"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    os.symlink(tmp_path / "d", tmp_path / "link")
    paths = [str(tmp_path / name) for name in [*texts, "link", "nowhere", "a"]]
    found = find_duplicates(paths)
    groups = {}
    for path, hash_ in found.items():
        groups.setdefault(hash_, []).append(os.path.basename(path))
    assert list(groups.values()) == [["a", "c"], ["b", "e"], ["d", "link"]]


def test_what_is_no_file_has_no_copies(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / f"{name}.jpg")  # its reader would wait without end
    paths = [str(path) for path in tmp_path.iterdir()]
    assert find_duplicates(paths) == {}
    assert find_duplicates([]) == {}


def test_an_untrained_model_is_not_perfect_on_files_that_are_there_twice(
    tmp_path, caplog
):
    photos = make_photos(tmp_path / "photos", views=3)
    honest = read_run_data(settings_for(photos))
    copy_each(photos)
    data = read_run_data(settings_for(photos))
    assert data.num_copies == 6
    assert pixel_metrics(data.test) == pixel_metrics(honest.test)
    assert "6 test images have the contents of another one of their class" in (
        caplog.text
    )
    left_out = [one for one in data.skipped if "a copy of" in one.reason]
    assert len(left_out) == 6
    for path, reason in left_out:
        first = path.replace("_copy", "")
        assert reason.startswith(f"a copy of {first!r} (")
    # The training is as it was, and says that it has copies.
    assert len(data.train.labels) == 36
    assert "18 training images have the contents of another one of their class" in (
        caplog.text
    )
    caplog.clear()
    kept = read_run_data(settings_for(photos, keep_duplicates=True))
    assert (kept.num_copies, len(kept.test.labels)) == (0, 12)
    assert pixel_metrics(kept.test)["recall_at_1"] == 1.0
    assert pixel_metrics(honest.test)["recall_at_1"] < 1.0
    assert "They are kept, and the metrics are not those of different" in caplog.text


def test_classes_of_one_file_alone_have_nothing_to_find(tmp_path):
    photos = copy_each(make_photos(tmp_path / "photos", views=1))
    kept = read_run_data(settings_for(photos, keep_duplicates=True))
    assert pixel_metrics(kept.test)["map"] == 1.0
    with pytest.raises(ValueError, match=r"such a pair \(2 copies of files are left"):
        read_run_data(settings_for(photos))


def image_set(files, names):
    labels = np.array([label for _, label in files], "int64")
    return ImageSet(ImageFiles([path for path, _ in files], 16), labels, names)


def test_a_query_stays_and_a_distractor_goes():
    contents = {"q/z.png": "1", "g/a.png": "1", "g/b.png": "2", "d/a.png": "2"}
    files = [("q/y.png", 0), ("q/z.png", 0), ("q/z2.png", 1)]
    files += [("d/a.png", -1), ("g/a.png", 0), ("g/b.png", 1), ("g/c.png", 0)]
    test = image_set(files, ["one", "two"])
    left, queries, count = leave_out_copies(test, np.arange(3), contents)
    assert left.images.paths == ["q/y.png", "q/z.png", "q/z2.png", "g/b.png", "g/c.png"]
    assert left.labels.tolist() == [0, 0, 1, 1, 0]
    assert (queries.tolist(), count) == ([0, 1, 2], 2)
    assert left.skipped == [
        ("d/a.png", "a copy of 'g/b.png' (two)"),
        ("g/a.png", "a copy of 'q/z.png' (one)"),
    ]


def test_queries_keep_their_images_when_others_before_them_go():
    contents = dict.fromkeys(["a.png", "b.png", "c.png"], "1")
    test = image_set([(f"{name}.png", 0) for name in "cbad"], ["one"])
    left, queries, _ = leave_out_copies(test, np.array([0, 1, 3]), contents)
    assert [left.images.paths[i] for i in queries] == ["b.png", "d.png"]


def test_a_file_in_two_classes_is_named_and_left_out(caplog):
    contents = {"a/0.png": "1", "b/0.png": "1", "a/9.png": "1"}
    files = [("a/0.png", 0), ("a/1.png", 0), ("a/9.png", 0)]
    test = image_set([*files, ("b/0.png", 1), ("b/1.png", 1)], ["a", "b"])
    left, queries, count = leave_out_copies(test, None, contents)
    assert left.images.paths == ["a/1.png", "b/1.png"]
    assert (queries, count) == (None, 3)
    assert dict(left.skipped) == {
        "a/0.png": "a copy of 'b/0.png' (b)",
        "a/9.png": "a copy of 'b/0.png' (b)",
        "b/0.png": "a copy of 'a/0.png' (a)",
    }
    assert "3 test images have the contents of another one of another class" in (
        caplog.text
    )
    assert "'a/0.png' (a) and 'b/0.png' (b)" in caplog.text


def test_a_file_that_is_trained_on_is_named_and_not_tested(tmp_path, caplog):
    train = make_photos(tmp_path / "photos" / "train", "abc")
    test = make_photos(tmp_path / "photos" / "test", "xy", views=3)
    shutil.copyfile(train / "a" / "1.png", test / "x" / "1.png")
    shutil.copyfile(train / "a" / "1.png", train / "c" / "0.png")
    data = read_run_data(settings_for(tmp_path / "photos"))
    assert (data.num_copies, len(data.test.labels)) == (1, 5)
    copy, original = str(test / "x" / "1.png"), str(train / "a" / "1.png")
    assert dict(data.skipped)[copy] == f"a copy of {original!r} (a), a training image"
    assert f"{copy!r} (x) and {original!r} (a)" in caplog.text
    assert "1 training images have the contents of another one of another class: " in (
        caplog.text
    )
    assert f"'train{os.sep}c{os.sep}0.png' (c) and 'train{os.sep}a" in caplog.text


def test_a_run_with_copies_is_resumed_and_evaluated_as_it_began(tmp_path, caplog):
    photos = copy_each(make_photos(tmp_path / "photos"))
    trained, before = begin(photos)
    resumed = read_run_data(trained.settings, read_split(trained.split_file))
    for part in ("train", "test"):
        one, other = getattr(before, part), getattr(resumed, part)
        np.testing.assert_array_equal(one.labels, other.labels)
        for image, same in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(image, same)
    assert resumed[3:] == before[3:]
    chosen = read_evaluation_set(trained)
    np.testing.assert_array_equal(chosen.images.labels, before.test.labels)
    assert chosen.heading(np.ones(4)) == (
        "the test set of photos: 4 queries of 2 classes never seen in training; 4 "
        "copies left out"
    )
    assert "are not in the list" not in caplog.text
    kept = read_evaluation_set(trained, keep_duplicates=True)
    assert (kept.num_copies, len(kept.images.labels)) == (0, 8)
    assert kept.heading(np.ones(8)).endswith("never seen in training")
    # By default as in the run.
    trained, _ = begin(photos, keep_duplicates=True)
    assert len(read_evaluation_set(trained).images.labels) == 8
    chosen = read_evaluation_set(trained, keep_duplicates=False)
    assert chosen.num_copies == 4


def test_a_training_image_stays_known_when_it_is_gone(tmp_path):
    photos = make_photos(tmp_path / "photos", views=3)
    _, before = begin(photos)
    original = next(row for row in before.listed if row.split == "train")
    tested = next(row for row in before.listed if row.split == "test")
    shutil.copyfile(photos / original.path, photos / tested.path)
    trained, _ = begin(photos)
    (photos / original.path).unlink()
    chosen = read_evaluation_set(trained)
    assert tested.path not in names_of(chosen.images, photos)
    assert chosen.num_copies == 1
    # All images and those of the training are evaluated where that is asked for.
    assert read_evaluation_set(trained, split="all").num_copies == 0


@pytest.mark.parametrize("is_listed", [True, False])
def test_copies_in_other_data_are_left_out_whatever_the_model(tmp_path, is_listed):
    other = copy_each(make_photos(tmp_path / "other", "kl"), "k")
    trained, _ = begin(make_photos(tmp_path / "photos"))
    if not is_listed:
        trained = trained._replace(split_file=None)
    chosen = read_evaluation_set(trained, str(other))
    assert chosen.num_copies == 2
    assert names_of(chosen.images, other) == [
        os.path.join(name, view) for name in "kl" for view in ("0.png", "1.png")
    ]


@pytest.mark.parametrize("has_splits", [True, False])
def test_the_test_set_of_a_run_without_a_list_holds_no_training_image(
    tmp_path, has_splits
):
    split_of = dict(zip("abcdefgh", ["train"] * 6 + ["test"] * 2, strict=True))
    photos = data = make_photos(tmp_path / "photos", views=3)
    if has_splits:
        lines = [
            (f"photos/{name}/{view}.png", name, split)
            for name, split in split_of.items()
            for view in range(3)
        ]
        data = make_manifest(tmp_path / "list.csv", lines)
    trained, before = begin(data)
    original, tested = before.listed[0].path, before.listed[-1].path
    root = data.parent if has_splits else photos
    shutil.copyfile(root / original, root / tested)
    chosen = read_evaluation_set(trained._replace(split_file=None))
    assert tested not in names_of(chosen.images, root)
    assert chosen.num_copies == 1
