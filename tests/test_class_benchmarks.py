"""SOP, CUB-200 and iNaturalist: classes to train on and others for the test."""

import numpy as np
import pytest
from benchmark_folders import (
    cub_folder,
    inaturalist_folder,
    sop_folder,
    write_text,
)

from keras_aploss import evaluate_benchmark, read_benchmark

FOLDERS = {
    "sop": sop_folder,
    "cub200": cub_folder,
    "inaturalist2018": inaturalist_folder,
}


def classes(images):
    return [images.class_names[label] for label in images.labels]


@pytest.mark.parametrize(
    ("name", "train", "test", "reported"),
    [
        ("sop", "111222", "333444", "1 10 100 1000"),
        ("cub200", ["099.Bird", "100.Bird"], ["101.Bird", "102.Bird"], "1 2 4 8"),
        ("inaturalist2018", ["Aves/1"], ["Aves/2", "Insecta/1"], "1 4 16 32"),
    ],
)
def test_reads_the_published_form(tmp_path, name, train, test, reported):
    benchmark = read_benchmark(name, FOLDERS[name](tmp_path), image_size=32)
    if name != "sop":
        train, test = ([k for k in names for _ in "ab"] for names in (train, test))
    assert classes(benchmark.train) == list(train)
    assert classes(benchmark.test) == list(test)
    # One numbering: labels of the two sets are never confused.
    assert benchmark.train.class_names is benchmark.test.class_names
    assert not set(benchmark.train.labels) & set(benchmark.test.labels)
    assert benchmark.test.images[0].shape == (32, 32, 3)
    ks = reported.split()
    assert benchmark.reported == (*(f"recall_at_{k}" for k in ks), "map_at_r")
    embeddings = np.eye(2)[np.unique(benchmark.test.labels, return_inverse=True)[1]]
    result = evaluate_benchmark(benchmark, embeddings)["test"]
    assert result.metrics["map_at_r"] == 1
    assert {*benchmark.reported} <= set(result.metrics)


def test_archives_may_be_unpacked_below_the_root(tmp_path):
    sop_folder(tmp_path / "Stanford_Online_Products")
    benchmark = read_benchmark("sop", tmp_path)
    folder = tmp_path / "Stanford_Online_Products" / "chair_final"
    assert benchmark.test.images.paths[0] == str(folder / "3_0.JPG")
    cub_folder(tmp_path)
    read_benchmark("cub200", tmp_path / "CUB_200_2011")
    inaturalist_folder(tmp_path)
    for split in ("train", "test"):
        name = f"Inaturalist_{split}_set1.txt"
        (tmp_path / "Inat_dataset_splits" / name).rename(tmp_path / name)
    read_benchmark("inaturalist2018", tmp_path)


HEADER = "image_id class_id super_class_id path\n"


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("sop", "Ebay_test.txt", "id class path\n1 2 a.jpg\n", "no image_id"),
        ("sop", "Ebay_test.txt", HEADER, "at least one line"),
        ("sop", "Ebay_test.txt", f"{HEADER}1 1 1 x.jpg\n2 1 1 y.jpg", "1 in both"),
        ("sop", "Ebay_test.txt", f"{HEADER}1 3 1 x.jpg\n2 3 1 x.jpg", "1 repeated"),
        ("sop", "Ebay_test.txt", f"{HEADER}1 3 1 x.jpg\n2 4 1 y.jpg", "two images"),
        ("sop", "Ebay_test.txt", f"{HEADER}1 3 1 x y.jpg", "5 cells"),
        ("cub200", "CUB_200_2011/images.txt", "1\n", "image_id image_name.*line 1"),
        ("cub200", "CUB_200_2011/images.txt", "99 a/b.jpg", "none for image_id=99"),
        ("cub200", "CUB_200_2011/image_class_labels.txt", "1 a", "integer class_id"),
        ("cub200", "CUB_200_2011/images.txt", "1 a/b.jpg\n2 a/c.jpg", "from 101 on"),
        (
            "inaturalist2018",
            "Inat_dataset_splits/Inaturalist_test_set1.txt",
            "train_val2018/Aves/2/a.jpg\nb.jpg\n",
            "line 2",
        ),
        (
            "inaturalist2018",
            "Inat_dataset_splits/Inaturalist_test_set1.txt",
            "\n",
            "empty",
        ),
    ],
)
def test_mistakes_in_the_lists(tmp_path, name, file, text, message):
    root = FOLDERS[name](tmp_path)
    write_text(root / file, text)
    with pytest.raises(ValueError, match=message):
        read_benchmark(name, root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sop", "Ebay_train.txt.*Stanford_Online_Products.zip"),
        ("cub200", "images.txt.*vision.caltech.edu"),
        ("inaturalist2018", "Inaturalist_train_set1.txt.*Smooth_AP"),
    ],
)
def test_missing_files(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        read_benchmark(name, tmp_path)
    root = FOLDERS[name](tmp_path)
    benchmark = read_benchmark(name, root)
    (root / benchmark.test.images.paths[1]).unlink()
    with pytest.raises(ValueError, match="1 of them missing"):
        read_benchmark(name, root)
