"""Which images a run trains on, and on which it is evaluated."""

import csv
import logging
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.data import ImageFiles
from keras_aploss.datasets import (
    ImageSet,
    image_folder,
    image_manifest,
    split_classes,
    synthetic_landmarks,
)
from keras_aploss.runs.settings import RunSettings

logger = logging.getLogger(__name__)

# A training image is read this much larger than the model sees it, whole, so that the
# random crop neither enlarges nor always misses what lies beside the central square.
READING_SCALE = 1.15


class RunData(NamedTuple):
    """The images of a run.

    Attributes:
        train: the training images, as they are augmented.
        squares: the same images as the model sees them in evaluation.
        test: the images of the evaluation, of other classes.
        queries: numbers of the test images that query; None: each does.
    """

    train: ImageSet
    squares: Sequence[np.ndarray]
    test: ImageSet
    queries: np.ndarray | None


def read_image_sets(settings: RunSettings, *, verbose: int = 0) -> dict[str, ImageSet]:
    """Read the data set that `settings.data` names, as sets by split.

    Returns:
        `"train"` and `"test"` for the embedded landmarks and for a folder that has
        sub-folders of these names, `"all"` for a folder of classes, and the values of
        the column `split` for a CSV file.

    Raises:
        ValueError: if there is no such folder or file, or it has no readable image.
    """
    data, size = settings.data, settings.image_size
    if data == "landmarks":
        sets = synthetic_landmarks(
            settings.num_landmarks,
            settings.views_per_landmark,
            size,
            settings.seed,
            num_test_landmarks=settings.num_test_landmarks,
        )
        return dict(zip(("train", "test"), sets, strict=True))
    path = pathlib.Path(data)
    if path.suffix.lower() == ".csv":
        return image_manifest(path, image_size=size, verbose=verbose)
    if all((path / split).is_dir() for split in ("train", "test")):
        return {
            split: image_folder(path / split, image_size=size, verbose=verbose)
            for split in ("train", "test")
        }
    return {"all": image_folder(path, image_size=size, verbose=verbose)}


def choose_test_set(
    sets: dict[str, ImageSet],
) -> tuple[ImageSet, np.ndarray | None] | None:
    """Choose the images to evaluate, and which of them query.

    Returns:
        The splits `"query"` and `"gallery"` (or `"database"`) as one set, with the
        numbers of its queries; else `"test"` or `"all"`, and None: leave-one-out.
        None if there is no such split.
    """
    database = sets.get("gallery") or sets.get("database")
    if "query" in sets and database:
        query = sets["query"]
        paths = [*query.images.paths, *database.images.paths]
        both = ImageSet(
            ImageFiles(paths, query.images.image_size),
            np.concatenate([query.labels, database.labels]),
            query.class_names,
            [*query.skipped, *database.skipped],
        )
        return both, np.arange(len(query.labels))
    for split in ("test", "all"):
        if split in sets:
            return sets[split], None
    return None


def read_run_data(
    settings: RunSettings, folder: pathlib.Path, *, verbose: int = 0
) -> RunData:
    """Read, split and cache the images; list those left out in `skipped.csv`.

    Raises:
        ValueError: if the data cannot be read, or have a training split without a test
            split or the reverse.
    """
    sets = read_image_sets(settings, verbose=verbose)
    if set(sets) == {"all"}:
        train, test = split_classes(
            sets["all"], test_fraction=settings.test_fraction, seed=settings.seed
        )
        queries, skipped = None, sets["all"].skipped
    else:
        chosen = choose_test_set(sets)
        if "train" not in sets or chosen is None:
            raise ValueError(
                "Expected the splits train and test (or query and gallery), or no "
                f"split at all. Received: {sorted(sets)} in data={settings.data!r}. "
                "Name them so in the column `split`."
            )
        train, (test, queries) = sets["train"], chosen
        skipped = [*train.skipped, *test.skipped]
    with open(folder / "skipped.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "reason"), *skipped])
    if skipped:
        logger.warning(
            "%d files or classes are left out; %s tells which and why.",
            len(skipped),
            folder / "skipped.csv",
        )
    squares = train.images
    if settings.augment and isinstance(squares, ImageFiles):
        # The random crop is taken from the whole image, not from its central square.
        size = round(READING_SCALE * settings.image_size)
        train = train._replace(images=ImageFiles(squares.paths, size, crop=False))
    train = _cached(train, settings, verbose)
    return RunData(train, squares, _cached(test, settings, verbose), queries)


def _cached(image_set, settings, verbose):
    """Decode the files now, if the pixels fit the memory granted to them."""
    images = image_set.images
    side = settings.image_size * READING_SCALE
    needed = len(images) * side * side * 3 * 4 / 3  # of aspect 4:3
    if isinstance(images, ImageFiles) and needed <= settings.cache_gib * 2**30:
        image_set = image_set._replace(images=images.load(verbose=verbose))
    return image_set
