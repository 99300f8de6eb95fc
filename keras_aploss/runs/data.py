"""The training and test images of a run."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss import tables
from keras_aploss.datasets import (
    ImageSet,
    image_folder,
    image_manifest,
    split_classes,
    synthetic_landmarks,
)
from keras_aploss.images import ImageFiles, SkippedImage
from keras_aploss.runs.settings import RunSettings

logger = logging.getLogger(__name__)

# A training image is read this much larger than the model sees it, whole, so that the
# random crop neither enlarges nor always misses what lies beside the central square.
READING_SCALE = 1.15


class RunData(NamedTuple):
    """The images of a run.

    Attributes:
        train: the training images, as augmentation reads them.
        evaluation_crops: the same images as the model sees them in evaluation.
        test: the images of the evaluation, of other classes.
        queries: numbers of the test images that are queries; None: all (leave-one-out).
        skipped: the files, or whole classes, that were left out, with the reason.
    """

    train: ImageSet
    evaluation_crops: Sequence[np.ndarray]
    test: ImageSet
    queries: np.ndarray | None
    skipped: Sequence[SkippedImage]


def read_image_sets(settings: RunSettings, *, verbose: int = 0) -> dict[str, ImageSet]:
    """Read the data set that `settings.data` names, as sets by split.

    Returns:
        `"train"` and `"test"` for the built-in landmarks and for a folder that has
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
    """Choose the images to evaluate, and the queries among them.

    Returns:
        The splits `"query"` and `"gallery"` (or `"database"`) as one set, with the
        numbers of its queries; else `"test"` or `"all"`, and None: leave-one-out.
        None if there is no such split.
    """
    database = sets.get("gallery") or sets.get("database")
    if "query" in sets and database:
        query = sets["query"]
        paths = [*query.images.paths, *database.images.paths]
        twice = sorted(set(query.images.paths) & set(database.images.paths))
        if twice:
            raise ValueError(
                "Expected queries that are not in the database, where each would find "
                f"itself. Received: {len(twice)} files in both, such as {twice[0]!r}. "
                "To let all images query all others, list them once, as the split test."
            )
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


def split_sets(
    sets: dict[str, ImageSet], settings: RunSettings
) -> tuple[ImageSet, ImageSet, np.ndarray | None]:
    """Divide a data set as a run does.

    Returns:
        The training set, the test set, and the numbers of the test images that are
        queries; None: all.

    Raises:
        ValueError: if there is a training split without a test split or the reverse,
            or one of them has too few images or classes.
    """
    if set(sets) == {"all"}:
        train, test = split_classes(
            sets["all"], test_fraction=settings.test_fraction, seed=settings.seed
        )
        queries = None
    else:
        chosen = choose_test_set(sets)
        if "train" not in sets or chosen is None:
            raise ValueError(
                "Expected the splits train and test (or query and gallery), or no "
                f"split at all. Received: {sorted(sets)} in data={settings.data!r}. "
                "Name them so in the column `split`."
            )
        train, (test, queries) = sets["train"], chosen
    classes = np.unique(train.labels[train.labels >= 0])
    if len(classes) < 2:
        raise ValueError(
            "Expected training images of two classes or more, to tell them apart. "
            f"Received: {len(classes)} in data={settings.data!r}."
        )
    check_test_set(test, queries)
    shared = np.intersect1d(classes, test.labels)
    if len(shared):
        logger.warning(
            "%d classes are in the training and in the test set, such as %r: the "
            "metrics are not those of unseen classes.",
            len(shared),
            test.class_names[shared[0]],
        )
    return train, test, queries


def check_test_set(test: ImageSet, queries: np.ndarray | None) -> None:
    """Check that queries have relevant images; warn if all images are relevant.

    Raises:
        ValueError: if no query has another image of its class.
    """
    labels = test.labels
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if queries is None:
        findable = classes[counts > 1]
    else:
        database = np.setdiff1d(np.arange(len(labels)), queries)
        findable = np.intersect1d(classes, labels[queries])
        findable = np.intersect1d(findable, labels[database])
    if not len(findable):
        raise ValueError(
            "Expected a test set in which a query has another image of its class to "
            f"find. Received: {len(labels)} images of {len(classes)} classes without "
            "such a pair. Add images of the same classes, or (with `--test-fraction`) "
            "classes."
        )
    if len(np.unique(labels)) == 1:
        logger.warning(
            "The test set has one class only: every ranking of it is perfect. Hold out "
            "more classes (`--test-fraction`)."
        )


def read_run_data(settings: RunSettings, *, verbose: int = 0) -> RunData:
    """Read, split and cache the images.

    Raises:
        ValueError: if the data cannot be read, or not be split; see `split_sets`.
    """
    sets = read_image_sets(settings, verbose=verbose)
    train, test, queries = split_sets(sets, settings)
    # Both parts of one set share what was skipped in it.
    skipped = list(dict.fromkeys([*train.skipped, *test.skipped]))
    evaluation_crops = train.images
    if settings.augment and isinstance(evaluation_crops, ImageFiles):
        # The random crop is taken from the whole image, not from its central square.
        size = round(READING_SCALE * settings.image_size)
        train = train._replace(
            images=ImageFiles(evaluation_crops.paths, size, crop=False)
        )
    train = _cached(train, settings, verbose)
    test = _cached(test, settings, verbose)
    return RunData(train, evaluation_crops, test, queries, skipped)


def read_evaluation_set(
    settings: RunSettings,
    data: str | None = None,
    split: str | None = None,
    *,
    verbose: int = 0,
) -> tuple[ImageSet, np.ndarray | None]:
    """Read the images to evaluate a trained model on.

    Args:
        settings: those of the run that trained the model.
        data: another data set, as `RunSettings.data`; None: that of the run, of which
            the test set is taken.
        split: the split to evaluate; None: the test set, see `choose_test_set`.
        verbose: 1 shows progress bars.

    Returns:
        The images, and the numbers of those that are queries; None: all.

    Raises:
        ValueError: if there is no such data set or split, or no query in it has a
            relevant image.
    """
    is_own = data is None or _same_path(data, settings.data)
    data = settings.data if is_own else data
    sets = read_image_sets(dataclasses.replace(settings, data=data), verbose=verbose)
    if split:
        if split not in sets:
            raise ValueError(
                f"Expected one of the splits {sorted(sets)}. Received: {split!r}."
            )
        chosen = sets[split], None
    elif is_own and set(sets) == {"all"}:
        # The run was trained on the other classes.
        _, *chosen = split_sets(sets, settings)
    else:
        chosen = choose_test_set(sets)
    if chosen is None:
        raise ValueError(
            "Expected a split named test, or query and gallery. Received: "
            f"{sorted(sets)} in data={data!r}. Choose one with `--split`."
        )
    images, queries = chosen
    check_test_set(images, queries)
    return images, queries


def _same_path(path, other):
    return pathlib.Path(path).resolve() == pathlib.Path(other).resolve()


def list_skipped(folder: pathlib.Path, skipped: Sequence[SkippedImage]) -> None:
    """List the files that were left out in `skipped.csv`, and log their number."""
    path = folder / "skipped.csv"
    tables.write_skipped(path, skipped, even_if_none=True)
    if skipped:
        logger.warning("%d files or classes are left out; see %s.", len(skipped), path)


def _cached(image_set, settings, verbose):
    """Decode the files now, if their pixels fit into `settings.cache_gib`."""
    images = image_set.images
    side = settings.image_size * READING_SCALE
    needed = len(images) * side * side * 3 * 4 / 3  # of aspect 4:3
    if isinstance(images, ImageFiles) and needed <= settings.cache_gib * 2**30:
        image_set = image_set._replace(images=images.load(verbose=verbose))
    return image_set
