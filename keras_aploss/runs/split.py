"""The list of the images that a run is trained and tested on.

A folder changes: classes come, photos go. Drawn again from what is there now, a test
set would hold classes that were trained on. So a run lists its images before it begins,
in `split.csv`: for each image its split (`train` and `test`; or `train`, `query` and
`gallery`), its class, its path and a hash of its contents. Everything that is said of
the run later goes by this list. Copies of one file are in it; they are left out of the
test set when it is read, see `duplicates`. The built-in data set has no list: it is
drawn from the settings.
"""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.images import ImageFiles, hash_files
from keras_aploss.report import class_name
from keras_aploss.tables import read_table, write_table

logger = logging.getLogger(__name__)

SPLIT_FILE = "split.csv"
_NUM_NAMED = 3  # images or classes, in a warning


class ListedImage(NamedTuple):
    """A line of `split.csv`.

    Attributes:
        split: `"train"`, `"test"`, `"query"` or `"gallery"`.
        label: number of the class; -1 marks a distractor.
        class_name: its name.
        path: relative to the folder of the data, if it lies there.
        hash: of the contents, see `images.hash_files`.
    """

    split: str
    label: int
    class_name: str
    path: str
    hash: str


class Changes(NamedTuple):
    """What is otherwise in the data than in the list.

    Attributes:
        new: paths that are not in the list.
        gone: images of the list that are not there, or cannot be read any more.
        changed: images of the list with other contents, or in another class or split.
    """

    new: list[str]
    gone: list[ListedImage]
    changed: list[ListedImage]


def data_root(data: str) -> str:
    """The folder that the paths of a data set, `RunSettings.data`, are relative to.

    >>> data_root("photos/"), data_root("lists/photos.csv")
    ('photos', 'lists')
    """
    path = pathlib.Path(data)
    return str(path.parent if path.suffix.lower() == ".csv" else path)


def hash_sets(sets: Mapping[str, ImageSet], *, verbose: int = 0) -> dict[str, str]:
    """The hash of the contents of each file of some sets, by its path."""
    paths = {path for one in sets.values() for path in one.images.paths}
    return hash_files(sorted(paths), os.cpu_count() or 1, verbose)


def list_images(
    train: ImageSet, test: ImageSet, queries: np.ndarray | None, root: str
) -> list[ListedImage]:
    """List the image files of a run.

    Args:
        train: the training set, of `ImageFiles`.
        test: the test set, with the same numbering of the classes.
        queries: the number of each query, the first images of the test set; None: all
            images are queries.
        root: the folder that paths are relative to.
    """
    hashes = hash_sets({"train": train, "test": test})
    splits = ["train"] * len(train.labels)
    num_queries = 0 if queries is None else len(queries)
    splits += ["query"] * num_queries
    rest = "test" if queries is None else "gallery"
    splits += [rest] * (len(test.labels) - num_queries)
    images = [
        (label, path)
        for one in (train, test)
        for label, path in zip(one.labels.tolist(), one.images.paths, strict=True)
    ]
    return [
        ListedImage(
            split,
            label,
            class_name_of(label, train.class_names),
            _relative(path, root),
            str(hashes[path]),
        )
        for split, (label, path) in zip(splits, images, strict=True)
    ]


def write_split(path: str | os.PathLike, listed: Sequence[ListedImage]) -> None:
    """Write a list, whole or not at all."""
    write_table(path, ListedImage._fields, listed)


def read_split(path: str | os.PathLike) -> list[ListedImage]:
    """Read a list.

    Raises:
        ValueError: it is damaged.
    """
    fields, advice = ListedImage._fields, "Restore the file, or begin a new run."
    listed = []
    for line, cells in read_table(path, fields, verbatim=fields, advice=advice):
        label = cells["label"]
        if not label.removeprefix("-").isdecimal():
            raise ValueError(
                "Expected the number of a class as label. Received: "
                f"{os.fspath(path)!r} with {label=} in line {line}. {advice}"
            )
        row = ListedImage(*(cells[field] for field in fields))
        listed.append(row._replace(label=int(label)))
    return listed


def listed_hashes(listed: Sequence[ListedImage], root: str) -> dict[str, str]:
    """The hash of each image of a list, by its path; see `hash_sets`."""
    return {os.path.join(root, row.path): row.hash for row in listed}


def listed_sets(
    listed: Sequence[ListedImage],
    sets: Mapping[str, ImageSet],
    root: str,
    image_size: int,
) -> tuple[ImageSet, ImageSet, np.ndarray | None]:
    """The training and test set of a list, as far as their files are there.

    Args:
        listed: the list of a run.
        sets: the data set as it is now, by split.
        root: the folder of its paths.
        image_size: side of the images.

    Returns:
        The training set, the test set, and the numbers of its queries; None: all.
        Classes keep their numbers.
    """
    there = {path for one in sets.values() for path in one.images.paths}
    skipped = list(dict.fromkeys(s for one in sets.values() for s in one.skipped))
    names = _class_names(listed)

    def part(*splits):
        rows = [
            (os.path.join(root, row.path), row.label)
            for split in splits
            for row in listed
            if row.split == split and os.path.join(root, row.path) in there
        ]
        images = ImageFiles([path for path, _ in rows], image_size)
        labels = np.array([label for _, label in rows], "int64")
        return ImageSet(images, labels, names, skipped)

    has_queries = any(row.split == "query" for row in listed)
    queries = np.arange(len(part("query").labels)) if has_queries else None
    return part("train"), part("test", "query", "gallery"), queries


def find_changes(
    listed: Sequence[ListedImage],
    sets: Mapping[str, ImageSet],
    root: str,
    hashes: Mapping[str, str],
) -> Changes:
    """Compare the data set as it is now with the list of a run.

    Args:
        listed: the list.
        sets: the data set as it is now, by split. Splits that no run uses are left out.
        root: the folder of its paths.
        hashes: that of each of its files; see `hash_sets`.
    """
    places = _places(sets)
    gone, changed = [], []
    for row in listed:
        path = os.path.join(root, row.path)
        if path not in places:
            gone.append(row)
        elif hashes[path] != row.hash or not _is_in_place(row, places[path]):
            changed.append(row)
    known = {os.path.join(root, row.path) for row in listed}
    return Changes([path for path in places if path not in known], gone, changed)


def _places(sets):
    """In which splits, and as which classes, each file is there now."""
    places = {}
    for split, one in sets.items():
        split = "gallery" if split == "database" else split
        if split in ("all", "train", "test", "query", "gallery"):
            for label, path in zip(one.labels.tolist(), one.images.paths, strict=True):
                name = class_name_of(label, one.class_names)
                places.setdefault(path, set()).add((split, name))
    return places


def _is_in_place(row, places):
    return bool({("all", row.class_name), (row.split, row.class_name)} & places)


def log_changes(
    changes: Changes, listed: Sequence[ListedImage], sets: Mapping[str, ImageSet]
) -> None:
    """Warn of images that are new, gone or changed, with some of their names."""
    if changes.new:
        before = {row.class_name for row in listed}
        now = {name for path in _places(sets).values() for _, name in path}
        new_classes = sorted(now - before)
        logger.warning(
            "%d images are not in the list of the run, `%s`, and are left out: %s%s.",
            len(changes.new),
            SPLIT_FILE,
            _some(changes.new),
            f"; with new classes: {_some(new_classes)}" if new_classes else "",
        )
    for rows, what in (
        (changes.gone, "are gone, or cannot be read"),
        (changes.changed, "have other contents now, or another class or split"),
    ):
        for split in dict.fromkeys(row.split for row in rows):
            paths = [row.path for row in rows if row.split == split]
            count = sum(row.split == split for row in listed)
            logger.warning(
                "%d of the %d images of the split %s that the run began with %s: %s.",
                len(paths), count, split, what, _some(paths),
            )  # fmt: skip


def _some(names):
    return some_of([repr(name) for name in names])


def some_of(texts: Sequence[str]) -> str:
    """The first of some texts, and how many more there are, for a warning."""
    more = len(texts) - _NUM_NAMED
    some = ", ".join(texts[:_NUM_NAMED])
    return some + (f" and {more:,} more" if more > 0 else "")


def is_data_of(
    listed: Sequence[ListedImage], root: str, hashes: Mapping[str, str]
) -> bool:
    """Whether data are those of a list: at least half of its images are in place."""
    found = [hashes.get(os.path.join(root, row.path)) == row.hash for row in listed]
    return 2 * sum(found) >= len(found)


def trained_labels(
    listed: Sequence[ListedImage],
    sets: Mapping[str, ImageSet],
    root: str | None,
    hashes: Mapping[str, str],
) -> frozenset[int]:
    """The classes of a data set of which an image was trained on.

    Args:
        listed: the list of the run.
        sets: the data set, with one numbering of its classes.
        root: the folder of its paths, if it is that of the run: then the classes of
            the same names are the same, too. None: it is another data set, in which an
            image is known by its contents alone.
        hashes: that of each file.
    """
    rows = [row for row in listed if row.split == "train" and row.label >= 0]
    contents = {row.hash for row in rows}
    paths = set() if root is None else {os.path.join(root, row.path) for row in rows}
    trained, there = set(), set()
    for one in sets.values():
        for label, path in zip(one.labels.tolist(), one.images.paths, strict=True):
            there.add(path)
            if path in paths or hashes[path] in contents:
                trained.add(label)
    if root is not None:  # classes of which no image is left that was trained on
        left = {r.label for r in rows if os.path.join(root, r.path) in there}
        lost = {r.class_name for r in rows if r.label not in left}
        names = [name for one in sets.values() for name in enumerate(one.class_names)]
        trained |= {label for label, name in names if name in lost}
    return frozenset(trained - {-1})


def class_name_of(label: int, names: Sequence[str]) -> str:
    """The name of a class, also of that of the distractors."""
    return class_name(label, names) if label >= 0 else "distractor"


def _class_names(listed):
    """The names of the classes by their numbers; those of no image are empty."""
    names = {row.label: row.class_name for row in listed if row.label >= 0}
    return [names.get(label, "") for label in range(max(names, default=-1) + 1)]


def _relative(path, root):
    return path.removeprefix(os.path.join(root, ""))
