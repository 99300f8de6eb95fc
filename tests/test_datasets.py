"""Data sets: the synthetic landmarks, folders, disjoint classes."""

import logging
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from keras_aploss.datasets import (
    ImageSet,
    image_folder,
    split_classes,
    synthetic_landmarks,
)
from keras_aploss.images import ImageFiles


def mean_average_precision(vectors, labels):
    """Leave-one-out mAP of the cosine, by scikit-learn."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    values = []
    for query, label in enumerate(labels):
        others = np.arange(len(labels)) != query
        relevance = labels[others] == label
        values.append(average_precision_score(relevance, similarity[query, others]))
    return np.mean(values)


@pytest.fixture(scope="module")
def landmarks():
    return synthetic_landmarks(2, 10, num_test_landmarks=25)


def save_image(path, colour=(200, 40, 40), size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(options.pop("mode", "RGB"), size, colour).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two good classes, one without a good image, and things to ignore."""
    root = tmp_path / "photos"
    save_image(root / "tower" / "b.png", (10, 200, 10))
    save_image(root / "tower" / "A.JPG", (200, 10, 10))
    save_image(root / "tower" / "deep" / "er" / "c.bmp", (10, 10, 200))
    save_image(root / "bridge" / "one.jpeg", (90, 90, 90))
    save_image(root / "bridge" / "cmyk.jpg", (0, 90, 90, 0), mode="CMYK")
    (root / "bridge" / "zero.jpg").write_bytes(b"")
    whole = save_image(root / "bridge" / "cut.png", size=(200, 200)).read_bytes()
    (root / "bridge" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "ruin").mkdir()
    (root / "ruin" / "text.jpg").write_text("no image")
    (root / "empty").mkdir()
    (root / "tower" / "notes.txt").write_text("ignored")
    save_image(root / "tower" / ".hidden.png")
    save_image(root / ".cache" / "thumbnail.png")
    save_image(root / "stray.png")
    return root


class TestSyntheticLandmarks:
    def test_shapes_types_and_names(self):
        train, test = synthetic_landmarks(3, 4, 32, num_test_landmarks=2)
        assert isinstance(train, ImageSet)
        assert train.images.shape == (12, 32, 32, 3)
        assert test.images.shape == (8, 32, 32, 3)
        assert train.images.dtype == np.uint8
        assert train.labels.dtype == np.int64
        assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert test.labels.tolist() == [3] * 4 + [4] * 4
        assert train.class_names == test.class_names
        assert len(set(train.class_names)) == 5
        assert not train.skipped

    def test_same_seed_same_pixels(self):
        for one, two in zip(
            synthetic_landmarks(2, 3, 32, 7, num_test_landmarks=1),
            synthetic_landmarks(2, 3, 32, 7, num_test_landmarks=1),
            strict=True,
        ):
            np.testing.assert_array_equal(one.images, two.images)

    def test_another_seed_is_another_world(self):
        one, _ = synthetic_landmarks(2, 3, 32, seed=7, num_test_landmarks=1)
        two, _ = synthetic_landmarks(2, 3, 32, seed=8, num_test_landmarks=1)
        assert (one.images != two.images).mean() > 0.5

    def test_the_test_set_does_not_depend_on_the_training_set(self):
        _, one = synthetic_landmarks(1, 3, 32, num_test_landmarks=2)
        _, two = synthetic_landmarks(3, 3, 32, num_test_landmarks=2)
        np.testing.assert_array_equal(one.images, two.images)

    def test_no_landmark_is_in_both_sets(self):
        train, test = synthetic_landmarks(4, 2, 32, num_test_landmarks=4)
        assert not set(train.labels) & set(test.labels)
        assert not {x.tobytes() for x in train.images} & {
            x.tobytes() for x in test.images
        }

    def test_raw_pixels_fail(self, landmarks):
        _, test = landmarks
        pixels = test.images.reshape(len(test.labels), -1).astype("float64")
        assert mean_average_precision(pixels, test.labels) < 0.25

    def test_a_colour_histogram_fails(self, landmarks):
        _, test = landmarks
        coarse = test.images.reshape(len(test.labels), -1, 3).astype(int) // 64
        codes = coarse @ (16, 4, 1)
        histograms = np.stack([np.bincount(row, minlength=64) for row in codes])
        found = mean_average_precision(histograms.astype("float64"), test.labels)
        assert 0.05 < found < 0.5  # colour helps, and does not decide

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("num_landmarks", 0),
            ("views_per_landmark", 2.5),
            ("image_size", 8),
            ("seed", -1),
            ("num_test_landmarks", 0),
        ],
    )
    def test_wrong_arguments(self, name, value):
        with pytest.raises(ValueError, match=f"Received: {name}={value}"):
            synthetic_landmarks(**{name: value})


class TestImageFolder:
    def test_classes_order_and_labels(self, folder):
        found = image_folder(folder, image_size=16)
        names = [os.path.relpath(path, folder) for path in found.images.paths]
        assert names == [
            os.path.join("bridge", "one.jpeg"),
            os.path.join("tower", "A.JPG"),
            os.path.join("tower", "b.png"),
            os.path.join("tower", "deep", "er", "c.bmp"),
        ]
        assert found.class_names == ["bridge", "tower"]
        assert found.labels.tolist() == [0, 1, 1, 1]
        assert found.labels.dtype == np.int64

    def test_images_are_read_when_asked_for(self, folder):
        images = image_folder(folder, image_size=16).images
        assert isinstance(images, ImageFiles)
        assert images[2].shape == (16, 16, 3)
        np.testing.assert_array_equal(images[2][8, 8], (10, 200, 10))
        assert image_folder(folder, image_size=15, crop=False).images[2].shape == (
            15,
            20,
            3,
        )

    def test_bad_files_and_classes_are_told(self, folder, caplog):
        with caplog.at_level(logging.WARNING, logger="keras_aploss.datasets"):
            skipped = image_folder(folder, image_size=16).skipped
        assert {os.path.relpath(path, folder) for path, _ in skipped} == {
            os.path.join("bridge", "zero.jpg"),
            os.path.join("bridge", "cut.png"),
            os.path.join("bridge", "cmyk.jpg"),
            os.path.join("ruin", "text.jpg"),
            "ruin",
            "empty",
        }
        assert all(item.reason for item in skipped)
        warned = [record.args[0] for record in caplog.records[:2]]
        assert warned == ["empty", "ruin"]

    def test_images_of_other_formats_are_told(self, folder):
        for name in ("a.webp", "b.HEIC", "c.tif", "d.avif"):
            (folder / "tower" / name).write_bytes(b"of another format")
        save_image(folder / "tower" / "e.jfif", format="JPEG")
        save_image(folder / "tower" / "f.jpe", format="JPEG")
        found = image_folder(folder, image_size=16)
        told = {os.path.basename(path): reason for path, reason in found.skipped}
        assert {"a.webp", "b.HEIC", "c.tif", "d.avif"} <= set(told)
        reason = "its format, .heic, is not read; convert it to JPEG or PNG"
        assert told["b.HEIC"] == reason
        assert "notes.txt" not in told
        assert found.labels.tolist() == [0, 1, 1, 1, 1, 1]

    def test_images_of_other_formats_only(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "photo.webp").write_bytes(b"of another format")
        with pytest.raises(ValueError, match="Convert the 1 of other formats"):
            image_folder(tmp_path, image_size=16)

    def test_classes_of_one_image_are_named_and_kept(self, folder, caplog):
        for number in range(30):
            save_image(folder / f"single {number:02}" / "a.png")
        with caplog.at_level(logging.WARNING, logger="keras_aploss.datasets"):
            found = image_folder(folder, image_size=16)
        message = caplog.records[-1].getMessage()
        assert message.startswith("31 of 32 classes have one image only")
        assert "bridge, single 00, single 01" in message
        assert message.endswith("single 18 and 11 more")
        assert (np.bincount(found.labels) == 1).sum() == 31

    def test_links_are_followed_without_running_in_circles(self, folder, tmp_path):
        elsewhere = save_image(tmp_path / "elsewhere" / "d.png").parent
        (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
        (folder / "tower" / "parent").symlink_to(folder, target_is_directory=True)
        (folder / "tower" / "self").symlink_to(folder / "tower")
        found = image_folder(folder, image_size=16)
        assert found.class_names == ["bridge", "linked", "tower"]
        assert found.labels.tolist() == [0, 1, 2, 2, 2]

    def test_a_broken_link_is_skipped(self, folder):
        (folder / "tower" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
        found = image_folder(folder, image_size=16)
        assert str(folder / "tower" / "gone.jpg") in [
            item.path for item in found.skipped
        ]

    @pytest.mark.parametrize(
        ("prepare", "message"),
        [
            (lambda path: path.write_text("x"), "is not a folder"),
            (lambda path: None, "does not exist"),
            (lambda path: path.mkdir(), "has no sub-folder"),
            (lambda path: save_image(path / "a.png"), "has no sub-folder"),
            (lambda path: (path / "a").mkdir(parents=True), "without any image"),
        ],
    )
    def test_what_is_no_such_folder(self, tmp_path, prepare, message):
        prepare(tmp_path / "photos")
        with pytest.raises(ValueError, match=message) as error:
            image_folder(tmp_path / "photos", image_size=16)
        assert "Expected" in str(error.value)
        assert "Received: path=" in str(error.value)

    def test_no_readable_image(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "zero.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=r"at least one readable.*empty"):
            image_folder(tmp_path, image_size=16)


class TestSplitClasses:
    images = np.arange(40, dtype="uint8").reshape(40, 1, 1, 1) * np.ones(3, "uint8")
    whole = ImageSet(images, np.arange(40) % 8, list("abcdefgh"))

    def test_classes_are_disjoint_and_nothing_is_lost(self):
        train, test = split_classes(self.whole)
        assert len(set(test.labels)) == 2
        assert not set(train.labels) & set(test.labels)
        together = np.concatenate([train.images, test.images])[:, 0, 0, 0]
        assert sorted(together) == list(range(40))
        for part in (train, test):
            np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 8, part.labels)
            assert part.class_names == self.whole.class_names

    def test_the_seed_decides(self):
        tests = [set(split_classes(self.whole, seed=s)[1].labels) for s in range(9)]
        assert tests[0] == set(split_classes(self.whole, seed=0)[1].labels)
        assert any(labels != tests[0] for labels in tests)

    @pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.5, 4), (0.99, 7)])
    def test_at_least_one_class_on_either_side(self, fraction, count):
        _, test = split_classes(self.whole, test_fraction=fraction)
        assert len(set(test.labels)) == count

    def test_files_stay_lazy(self, folder):
        found = image_folder(folder, image_size=16)
        train, test = split_classes(found, test_fraction=0.5)
        assert isinstance(train.images, ImageFiles)
        assert len(train.images) + len(test.images) == 4
        assert test.skipped == found.skipped

    def test_distractors_go_to_the_test_set(self):
        labels = np.where(np.arange(40) < 5, -1, np.arange(40) % 8)
        train, test = split_classes(self.whole._replace(labels=labels))
        assert (test.labels == -1).sum() == 5
        assert train.labels.min() >= 0

    @pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
    def test_wrong_fraction(self, fraction):
        with pytest.raises(ValueError, match="test_fraction"):
            split_classes(self.whole, test_fraction=fraction)

    def test_one_class_can_not_be_split(self):
        with pytest.raises(ValueError, match="two classes"):
            split_classes(self.whole._replace(labels=np.zeros(40, int)))
