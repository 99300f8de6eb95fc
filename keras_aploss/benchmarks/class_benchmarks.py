"""SOP, CUB-200 and iNaturalist 2018: half of the classes train, the others test.

Each test image queries all other test images (leave one out); those of its class are
relevant. Published are recall@k, and since 2020 MAP@R.

Files that are read, below the root or its sub-folder as the archive unpacks:

* Stanford Online Products: `Ebay_train.txt`, `Ebay_test.txt`, tables of
  `image_id class_id super_class_id path`, with blanks between.
* CUB-200-2011: `images.txt` and `image_class_labels.txt`; the first 100 classes train,
  the others are the test. Images are in `images/`.
* iNaturalist 2018: the lists of Brown et al., `Inaturalist_train_set1.txt` and
  `Inaturalist_test_set1.txt`, also in `Inat_dataset_splits/`: a path per line, such as
  `train_val2018/Aves/2761/a.jpg`. The last two folders are the class.

References: Song et al., 2016 (SOP); Wah et al., 2011 (CUB), split as in Song et al.;
Brown et al., "Smooth-AP", 2020 (iNaturalist).
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_aploss.benchmarks.benchmark import ClassBenchmark
from keras_aploss.benchmarks.files import (
    Source,
    as_integer,
    check_distinct,
    find_file,
    read_columns,
    read_lines,
    read_words,
)
from keras_aploss.benchmarks.sources import CLASS_URLS
from keras_aploss.datasets import ImageSet
from keras_aploss.images import ImageFiles

_KS = {
    "sop": (1, 10, 100, 1000),
    "cub200": (1, 2, 4, 8),
    "inaturalist2018": (1, 4, 16, 32),
}


def read_classes(name: str, root: pathlib.Path, image_size: int) -> ClassBenchmark:
    """Read `"sop"`, `"cub200"` or `"inaturalist2018"`."""
    read = {"sop": _read_sop, "cub200": _read_cub, "inaturalist2018": _read_inaturalist}
    train, test = read[name](Source(name, CLASS_URLS[name], root))
    check_distinct([path for path, _ in (*train, *test)], f"the images of {name}")
    names = _distinct(label for _, label in (*train, *test))
    shared = {label for _, label in train} & {label for _, label in test}
    if shared:
        raise ValueError(
            f"Expected test classes of {name} that are not trained on. Received: "
            f"{len(shared)} in both lists, such as {min(shared)}. Download them again."
        )
    train, test = (image_set(rows, names, image_size) for rows in (train, test))
    if not (np.bincount(test.labels) > 1).any():
        raise ValueError(
            f"Expected test classes of {name} of two images or more. Received: none."
        )
    ks = _KS[name]
    reported = (*(f"recall_at_{k}" for k in ks), "map_at_r")
    return ClassBenchmark(name, train, test, ks, reported)


def image_set(
    rows: Sequence[tuple[str, str]], class_names: list[str], image_size: int
) -> ImageSet:
    """The images and labels of (path, class name) rows; nothing is read."""
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for _, name in rows], "int64")
    return ImageSet(ImageFiles([p for p, _ in rows], image_size), labels, class_names)


def _distinct(names) -> list[str]:
    return list(dict.fromkeys(names))


def _read_sop(source: Source):
    def rows(split):
        file = f"Ebay_{split}.txt"
        path = find_file(source, [file, f"Stanford_Online_Products/{file}"])
        columns = ["image_id", "class_id", "super_class_id", "path"]
        table = read_columns(path, columns, delimiter=" ")
        return [(os.fspath(path.parent / image), label) for _, label, _, image in table]

    return rows("train"), rows("test")


def _read_cub(source: Source):
    first_test_class = 101
    places = ("", "CUB_200_2011/")
    images = find_file(source, [f"{place}images.txt" for place in places])
    labels = find_file(source, [f"{place}image_class_labels.txt" for place in places])
    class_of = dict(read_words(labels, ["image_id", "class_id"]))
    train, test = [], []
    for number, image in read_words(images, ["image_id", "image_name"]):
        if number not in class_of:
            raise ValueError(
                f"Expected the class of each image in {str(labels)!r}. Received: none "
                f"for image_id={number}. Download both files again."
            )
        label = as_integer(class_of[number], labels, "class_id")
        row = os.fspath(images.parent / "images" / image), os.path.dirname(image)
        (train if label < first_test_class else test).append(row)
    for rows, which in ((train, "1 to 100"), (test, "from 101 on")):
        if not rows:
            raise ValueError(
                f"Expected images of the classes {which} in {str(labels)!r}. "
                "Received: none. Download it again."
            )
    return train, test


def _read_inaturalist(source: Source):
    def rows(split):
        file = f"Inaturalist_{split}_set1.txt"
        path = find_file(source, [f"Inat_dataset_splits/{file}", file])
        listed = read_lines(path)
        if not listed:
            raise ValueError(f"Expected a path per line in {str(path)!r}. It is empty.")
        wrong = [number for number, line in listed if line.count("/") < 2]
        if wrong:
            raise ValueError(
                "Expected paths such as train_val2018/Aves/2761/a.jpg in "
                f"{str(path)!r}. Received: another form in line {wrong[0]}."
            )
        return [
            (os.fspath(source.root / line), "/".join(line.split("/")[-3:-1]))
            for _, line in listed
        ]

    return rows("train"), rows("test")
