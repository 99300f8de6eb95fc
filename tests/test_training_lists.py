"""Lists to train on, and the manifest that they become."""

import numpy as np
import pytest
from benchmark_folders import save_image, sop_folder, write_text

from keras_aploss import ImageSet, image_manifest, read_benchmark
from keras_aploss.benchmarks import read_training_list
from keras_aploss.datasets import write_manifest


def landmarks_folder(root):
    """Two landmarks of two images; the last address is gone."""
    for seed, name in enumerate(["images/a.jpg", "b.jpg", "own/c.jpg"]):
        save_image(root / name, seed=seed)
    lines = ["http://x.org/1/a.jpg 10", "https://y.net/b.jpg 10", "own/c.jpg 9"]
    lines += ["http://x.org/gone.jpg 9"]
    write_text(root / "annotations" / "annotation_clean_train.txt", "\n".join(lines))
    return root


def test_landmarks_clean_leaves_out_what_is_gone(tmp_path, caplog):
    images = read_training_list("landmarks_clean", landmarks_folder(tmp_path))
    assert images.images.paths == [
        str(tmp_path / name) for name in ("images/a.jpg", "b.jpg", "own/c.jpg")
    ]
    assert [images.class_names[label] for label in images.labels] == ["10", "10", "9"]
    assert images.class_names == ["9", "10"]
    assert [path for path, _ in images.skipped] == [str(tmp_path / "images/gone.jpg")]
    assert "1 of the 4 images of landmarks_clean" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gldv2", "id,url,landmark_id\nabc1,http://x,7\ndef2,http://y,7\nabd3,,12\n"),
        ("gldv2_clean", "landmark_id,images\n7,abc1 def2\n12,abd3\n"),
    ],
)
def test_google_landmarks(tmp_path, name, text):
    file = "train.csv" if name == "gldv2" else "train_clean.csv"
    write_text(tmp_path / "metadata" / file, text)
    for image in ("a/b/c/abc1", "d/e/f/def2", "a/b/d/abd3"):
        save_image(tmp_path / "train" / f"{image}.jpg")
    images = read_training_list(name, tmp_path, image_size=16)
    assert images.labels.tolist() == [0, 0, 1]
    assert images.class_names == ["7", "12"]
    assert images.images.paths[0] == str(tmp_path / "train/a/b/c/abc1.jpg")
    assert images.images[0].shape == (16, 16, 3)
    assert not images.skipped


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("gldv2", "train.csv", "id,landmark\na,1\n", "no landmark_id"),
        ("gldv2", "train.csv", "id,landmark_id\na,x\n", "integer landmark_id"),
        ("gldv2", "train.csv", "id,landmark_id\na,1\na,2\n", "1 repeated"),
        (
            "gldv2_clean",
            "train_clean.csv",
            "landmark_id,images\n1,a\n",
            "none of the 1",
        ),
        ("landmarks_clean", "annotation_clean_train.txt", "a.jpg\n", "image label"),
        ("landmarks_clean", "annotation_clean_train.txt", "a.jpg x\n", "integer label"),
        ("landmarks_clean", "nothing.txt", "", "naverlabs"),
        ("landmarks", "nothing.txt", "", "landmarks_clean, gldv2, gldv2_clean"),
    ],
)
def test_mistakes(tmp_path, name, file, text, message):
    write_text(tmp_path / file, text)
    with pytest.raises(ValueError, match=message):
        read_training_list(name, tmp_path)


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    benchmark = read_benchmark("sop", sop_folder(tmp_path / "sop"))
    sets = {"train": benchmark.train, "test": benchmark.test}
    path = tmp_path / "lists" / "sop.csv"
    write_manifest(path, sets)
    again = image_manifest(path, image_size=16)
    assert set(again) == set(sets)
    for name, images in sets.items():
        assert again[name].images.paths == images.images.paths
        np.testing.assert_array_equal(again[name].labels, images.labels)
        assert again[name].class_names == images.class_names
    with pytest.raises(ValueError, match="which exists"):
        write_manifest(path, {"train": benchmark.train})
    write_manifest(path, {"train": benchmark.train}, overwrite=True)
    assert list(image_manifest(path, image_size=16)) == ["train"]


def test_distractors_stay_distractors_in_a_manifest(tmp_path):
    benchmark = read_benchmark("sop", sop_folder(tmp_path / "sop"))
    labels = benchmark.test.labels.copy()
    labels[0] = -1
    write_manifest(tmp_path / "x.csv", {"test": benchmark.test._replace(labels=labels)})
    again = image_manifest(tmp_path / "x.csv", image_size=16)["test"]
    assert again.labels.tolist() == [-1, 0, 0, 1, 1, 1]


def test_arrays_have_no_paths_to_write(tmp_path):
    arrays = ImageSet(np.zeros((1, 8, 8, 3), "uint8"), np.array([0]), ["a"])
    with pytest.raises(ValueError, match=r"sets\['train'\].images=ndarray"):
        write_manifest(tmp_path / "x.csv", {"train": arrays})
    assert not (tmp_path / "x.csv").exists()
