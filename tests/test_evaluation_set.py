"""What a trained model is evaluated on, where its data have changed since."""

import csv
import os
import shutil

import numpy as np
import pytest
from image_folders import make_folder, make_manifest, rows

from keras_aploss import RunSettings
from keras_aploss.runs import TrainedModel, read_evaluation_set
from keras_aploss.runs.data import read_run_data
from keras_aploss.runs.split import ListedImage, read_split, write_split
from keras_aploss.runs.version import TrainingRecord, portable, read_training_record


@pytest.fixture
def photos(tmp_path):
    return make_folder(tmp_path / "photos", "abcdefgh")


def begin(data, **changes):
    """What is known of a run that has begun: its settings and the list of its images.

    No model is needed to choose what it is evaluated on.
    """
    settings = RunSettings(data=str(data), image_size=16, **changes)
    run_data, path = read_run_data(settings), data.parent / "split.csv"
    write_split(path, run_data.listed)
    return TrainedModel(None, settings, settings, None, split_file=path), run_data


def classes_of(images):
    return sorted({images.class_names[label] for label in images.labels})


def heading(chosen):
    """Where all images are queries that find another."""
    return chosen.heading(np.ones(len(chosen.images.labels)))


def names_of(images, folder):
    return [os.path.relpath(path, folder) for path in images.images.paths]


def same_images(part, other):
    np.testing.assert_array_equal(part.labels, other.labels)
    for image, same in zip(part.images, other.images, strict=True):
        np.testing.assert_array_equal(image, same)


def test_the_list_of_a_run_can_be_read_by_people(photos):
    trained, data = begin(photos, test_fraction=0.2)
    with open(trained.split_file, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["split", "label", "class_name", "path", "hash"]
    assert len(lines) == 24
    tested = set(classes_of(data.test))
    for split, label, name, path, digest in lines:
        assert split == ("test" if name in tested else "train")
        assert "abcdefgh"[int(label)] == name
        assert path in {f"{name}/{view}.png" for view in range(3)}
        assert len(digest) == 32
    assert len({line[4] for line in lines}) == 24


def test_a_class_that_came_changes_neither_test_set_nor_training(photos, caplog):
    """It was drawn again, of other classes: a mAP of 0.936 where 0.748 is right."""
    trained, before = begin(photos)
    make_folder(photos, ["0", "new"])
    chosen = read_evaluation_set(trained)
    same_images(chosen.images, before.test)
    assert classes_of(chosen.images) == classes_of(before.test)
    assert chosen.seen.isdisjoint(chosen.images.labels.tolist())
    assert heading(chosen) == (
        "the test set of photos: 6 queries of 2 classes never seen in training"
    )
    assert "6 images are not in the list of the run" in caplog.text
    assert "with new classes: '0', 'new'" in caplog.text
    resumed = read_run_data(trained.settings, read_split(trained.split_file))
    same_images(resumed.train, before.train)
    same_images(resumed.test, before.test)
    assert resumed.listed == before.listed
    assert "unbroken" not in caplog.text


def test_what_is_gone_or_changed_is_named_and_a_resumed_run_is_not_the_same(
    tmp_path, photos, caplog
):
    trained, before = begin(photos)
    gone = next(row for row in before.listed if row.split == "train")
    changed = next(row for row in before.listed if row.split == "test")
    (photos / gone.path).unlink()
    other = make_folder(tmp_path / "other", "k")
    shutil.copyfile(other / "k" / "0.png", photos / changed.path)
    chosen = read_evaluation_set(trained)
    count = len(before.listed) - 6
    texts = [
        f"1 of the {count} images of the split train that the run began with are gone, "
        f"or cannot be read: '{gone.path}'",
        "1 of the 6 images of the split test that the run began with have other "
        f"contents now, or another class or split: '{changed.path}'",
    ]
    for text in texts:
        assert text in caplog.text
    assert len(chosen.images.labels) == 6
    caplog.clear()
    resumed = read_run_data(trained.settings, read_split(trained.split_file))
    for text in (*texts, "The run goes on without the weights of an unbroken one"):
        assert text in caplog.text
    assert len(resumed.train.labels) == len(before.train.labels) - 1
    # The classes keep their numbers, and those of lost images were trained on.
    assert set(resumed.train.labels) == set(before.train.labels)
    assert resumed.seen == set()


def test_a_test_image_that_is_gone_leaves_the_training_as_it_was(photos, caplog):
    trained, before = begin(photos)
    (photos / before.listed[-1].path).unlink()
    resumed = read_run_data(trained.settings, read_split(trained.split_file))
    same_images(resumed.train, before.train)
    assert "1 of the 6 images of the split test" in caplog.text
    assert "unbroken" not in caplog.text


def test_all_images_are_evaluated_where_that_is_asked_for_and_said(photos):
    trained, before = begin(photos)
    chosen = read_evaluation_set(trained, split="all")
    assert len(chosen.images.labels) == 24
    assert heading(chosen) == (
        "the split all of photos: 24 queries of 8 classes, 6 of them seen in training"
    )
    assert chosen.seen == set(before.train.labels.tolist())


def test_new_images_of_a_class_whose_images_are_gone_are_of_a_seen_class(photos):
    trained, before = begin(photos)
    name = next(row.class_name for row in before.listed if row.split == "train")
    shutil.rmtree(photos / name)
    make_folder(photos / "other", "a")
    (photos / "other" / "a").rename(photos / name)
    for path in (photos / name).iterdir():
        path.rename(path.with_stem(f"new{path.stem}"))
    chosen = read_evaluation_set(trained, split="all")
    assert name in {chosen.images.class_names[label] for label in chosen.seen}


@pytest.mark.parametrize("is_exported", [False, True])
def test_data_of_the_run_are_known_wherever_they_lie(photos, tmp_path, is_exported):
    trained, before = begin(photos)
    moved = shutil.copytree(photos, tmp_path / "elsewhere")
    (moved / before.listed[0].path).unlink()
    if is_exported:  # it knows the name of its data alone
        settings = portable(trained.settings)
        trained = trained._replace(settings=settings, is_exported=True)
    for place in (moved, photos):
        chosen = read_evaluation_set(trained, str(place))
        same_images(chosen.images, before.test)
        assert names_of(chosen.images, place) == [
            row.path for row in before.listed if row.split == "test"
        ]
        assert heading(chosen).endswith("6 queries of 2 classes never seen in training")


def test_an_exported_model_asks_for_its_data(photos, tmp_path, monkeypatch):
    trained, _ = begin(photos)
    settings = portable(trained.settings)
    trained = trained._replace(settings=settings, run=settings, is_exported=True)
    with pytest.raises(ValueError, match=r"Expected `--data`.*'photos'"):
        read_evaluation_set(trained)
    # A folder of that name that is another one is not taken for it.
    (tmp_path / "home").mkdir()
    make_folder(tmp_path / "home" / "photos", "kl")
    monkeypatch.chdir(tmp_path / "home")
    chosen = read_evaluation_set(trained, "photos")
    assert heading(chosen) == (
        "all of photos: 6 queries of 2 classes, with no image of the training"
    )


def test_images_of_the_training_are_found_in_other_data(photos, tmp_path):
    trained, before = begin(photos)
    other = make_folder(tmp_path / "other", "kl")
    tested, trained_on = (
        next(row for row in before.listed if row.split == split)
        for split in ("test", "train")
    )
    shutil.copyfile(photos / tested.path, other / "k" / "1.png")
    chosen = read_evaluation_set(trained, str(other))
    assert heading(chosen).endswith("2 classes, with no image of the training")
    assert chosen.num_seen(np.ones(6)) is None
    shutil.copyfile(photos / trained_on.path, other / "l" / "1.png")
    chosen = read_evaluation_set(trained, str(other))
    assert heading(chosen) == (
        "all of other: 6 queries of 2 classes, 1 of them seen in training"
    )
    # Of classes without a query nothing is said.
    precision = np.where(chosen.images.labels == 0, 1.0, np.nan)
    assert chosen.num_seen(precision) is None
    assert "3 queries of 1 class, with no image of the training" in chosen.heading(
        precision
    )


def test_a_run_of_before_says_that_nothing_is_known(photos, caplog):
    trained, _ = begin(photos)
    trained = trained._replace(split_file=None)
    chosen = read_evaluation_set(trained)
    assert "The run has no `split.csv`, as it was begun by an earlier version" in (
        caplog.text
    )
    text = "6 queries of 2 classes; whether the model was trained on them is not known"
    assert heading(chosen) == f"a test set of photos: {text}"
    everything = read_evaluation_set(trained, split="all")
    assert heading(everything).endswith("is not known")


def test_the_built_in_data_are_known_by_the_settings():
    settings = RunSettings(
        image_size=16, num_landmarks=3, num_test_landmarks=2, views_per_landmark=2
    )
    trained = TrainedModel(None, settings, settings, None, is_exported=True)
    chosen = read_evaluation_set(trained)
    assert heading(chosen) == (
        "the test set of landmarks: 4 queries of 2 classes never seen in training"
    )
    chosen = read_evaluation_set(trained, split="train")
    assert heading(chosen).endswith("3 classes, all of them seen in training")
    # A model from elsewhere may have been trained on any.
    chosen = read_evaluation_set(trained._replace(run=None))
    assert heading(chosen).endswith("is not known")


def test_the_splits_of_a_table_are_those_that_the_run_began_with(
    tmp_path, photos, caplog
):
    split_of = {"a": "train", "b": "train", "c": "query", "d": "spare"}
    lines = rows(split_of)
    lines += [("photos/e/0.png", "c", "database"), ("photos/e/1.png", "-1", "database")]
    table = make_manifest(tmp_path / "list.csv", lines)
    trained, before = begin(table)
    splits = [row.split for row in before.listed]
    assert splits == ["train"] * 6 + ["query"] * 3 + ["gallery"] * 2
    assert before.listed[-1].class_name == "distractor"
    chosen = read_evaluation_set(trained)
    assert chosen.queries.tolist() == [0, 1, 2]
    same_images(chosen.images, before.test)
    assert not caplog.text
    # The splits of other images have nothing to do with the run.
    lines[-2:-2] = [("photos/f/0.png", "d", "spare")]
    # Of one class, and so not in the training set any more; a query that was trained.
    lines[0] = ("photos/a/0.png", "a", "query")
    make_manifest(table, lines)
    chosen = read_evaluation_set(trained)
    same_images(chosen.images, before.test)
    assert "1 of the 6 images of the split train that the run began with have" in (
        caplog.text
    )
    assert "are not in the list" not in caplog.text
    spare = read_evaluation_set(trained, split="spare")
    assert heading(spare).endswith("1 class never seen in training")
    relabelled = [(path, "b" if label == "d" else label, s) for path, label, s in lines]
    make_manifest(table, relabelled)
    spare = read_evaluation_set(trained, split="spare")
    assert heading(spare).endswith("1 class, all of them seen in training")


def test_evaluation_takes_the_split_that_is_asked_for(tmp_path, photos):
    split_of = {"a": "train", "b": "train", "c": "spare"}
    table = make_manifest(tmp_path / "list.csv", rows(split_of))
    settings = RunSettings(data=str(table), image_size=16)
    trained = TrainedModel(None, settings, settings, None)
    chosen = read_evaluation_set(trained, split="train")
    assert len(chosen.images.labels) == 6
    with pytest.raises(ValueError, match=r"\['spare', 'train'\]. Received: 'test'"):
        read_evaluation_set(trained, split="test")
    with pytest.raises(ValueError, match="Choose one with `--split`"):
        read_evaluation_set(trained)


NAMES = [
    "a b",
    " a",
    'a"b',
    "a,b",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "caf\udce9",
    "a;b",
    "\ufeff",
]


def test_names_that_are_odd_or_no_text_are_kept(tmp_path):
    listed = [
        ListedImage("train", number - 1, name, f"{name}/{name}.png", "0" * 32)
        for number, name in enumerate(NAMES)
    ]
    write_split(tmp_path / "split.csv", listed)
    assert read_split(tmp_path / "split.csv") == listed


def test_a_folder_of_such_names_is_listed_and_found_again(tmp_path):
    names = [name for name in NAMES if name != "\ufeff"][:8]
    photos = make_folder(tmp_path / "caf\udce9", [f"{name}{k}" for k, name in
                         enumerate(names)])  # fmt: skip
    trained, before = begin(photos)
    chosen = read_evaluation_set(trained)
    same_images(chosen.images, before.test)
    assert heading(chosen).startswith("the test set of caf\\udce9: ")


@pytest.mark.parametrize(
    "content",
    ["", "split,label\n", "split,label,class_name,path,hash\ntrain,x,a,a.png,0\n",
     "split,label,class_name,path,hash\ntrain,1,a"],
)  # fmt: skip
def test_a_damaged_list_is_named(photos, content):
    trained, _ = begin(photos)
    trained.split_file.write_text(content)
    with pytest.raises(ValueError, match=r"split\.csv.*Restore the file"):
        read_evaluation_set(trained)


def test_a_version_keeps_its_training_without_telling_of_its_owner(tmp_path):
    settings = RunSettings(data="/home/somebody/photos", weights="/home/somebody/w.h5")
    record = TrainingRecord(portable(settings), 2, False)
    assert read_training_record(tmp_path) is None
    (tmp_path / "training.json").write_text(record.to_json())
    assert "somebody" not in record.to_json()
    assert read_training_record(tmp_path) == record
    assert record.settings.data == "photos"
    for damage in ("", "[]", "{}", '{"settings": {"depth": 3}}'):
        (tmp_path / "training.json").write_text(damage)
        with pytest.raises(ValueError, match=r"training\.json"):
            read_training_record(tmp_path)
