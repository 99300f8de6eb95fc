"""The training and test images of a run."""

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
from keras_aploss.runs.defaults import with_image_size
from keras_aploss.runs.duplicates import leave_out_copies, warn_of_training_copies
from keras_aploss.runs.settings import RunSettings
from keras_aploss.runs.split import (
    ListedImage,
    data_root,
    find_changes,
    hash_sets,
    list_images,
    listed_hashes,
    listed_sets,
    log_changes,
)

logger = logging.getLogger(__name__)

# A training image is read this much larger than the model sees it, whole, so that the
# random crop neither enlarges nor always misses what lies beside the central square.
READING_SCALE = 1.15
BUILT_IN = "landmarks"  # as `RunSettings.data`


class RunData(NamedTuple):
    """The images of a run.

    Attributes:
        train: the training images, as augmentation reads them.
        evaluation_crops: the same images as the model sees them in evaluation.
        test: the images of the evaluation, of other classes; without copies of one
            file, see `duplicates`.
        queries: numbers of the test images that are queries; None: all (leave-one-out).
        skipped: the files, or whole classes, that were left out, with the reason.
        listed: all of them, and the copies, for `split.csv`; None for the built-in
            data set.
        seen: the labels of the test set that are trained on; None: not known.
        num_copies: how many test images were left out as copies.
    """

    train: ImageSet
    evaluation_crops: Sequence[np.ndarray]
    test: ImageSet
    queries: np.ndarray | None
    skipped: Sequence[SkippedImage]
    listed: Sequence[ListedImage] | None
    seen: frozenset[int] | None
    num_copies: int = 0


def read_image_sets(settings: RunSettings, *, verbose: int = 0) -> dict[str, ImageSet]:
    """Read the data set that `settings.data` names, as sets by split.

    Returns:
        `"train"` and `"test"` for the built-in landmarks and for a folder that has
        sub-folders of these names, `"all"` for a folder of classes, and the values of
        the column `split` for a CSV file. They share one numbering of the classes.

    Raises:
        ValueError: if there is no such folder or file, or it has no readable image.
    """
    settings = with_image_size(settings)
    data, size = settings.data, settings.image_size
    if data == BUILT_IN:
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
        return _numbered_together(
            {
                split: image_folder(path / split, image_size=size, verbose=verbose)
                for split in ("train", "test")
            }
        )
    return {"all": image_folder(path, image_size=size, verbose=verbose)}


def _numbered_together(sets):
    """Give the classes of one name in several folders one number."""
    names = sorted({name for one in sets.values() for name in one.class_names})
    numbers = {name: number for number, name in enumerate(names)}
    return {
        split: one._replace(
            labels=np.array([numbers[one.class_names[k]] for k in one.labels], "int64"),
            class_names=names,
        )
        for split, one in sets.items()
    }


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
        ValueError: if there is a training split without a test split or the reverse.
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
    return train, test, queries


def _check_training_set(train, settings):
    classes = np.unique(train.labels[train.labels >= 0])
    if len(classes) < 2:
        raise ValueError(
            "Expected training images of two classes or more, to tell them apart. "
            f"Received: {len(classes)} in data={settings.data!r}."
        )


def _warn_of_seen_classes(test, seen):
    if seen:
        logger.warning(
            "%d classes are in the training and in the test set, such as %r: the "
            "metrics are not those of unseen classes.",
            len(seen),
            test.class_names[min(seen)],
        )


def check_test_set(
    test: ImageSet, queries: np.ndarray | None, num_copies: int = 0
) -> None:
    """Check that queries have relevant images; warn if all images are relevant.

    Args:
        test: the test set.
        queries: the numbers of its queries; None: all images.
        num_copies: how many images were left out of it as copies.

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
        copies = f" ({num_copies} copies of files are left out)" if num_copies else ""
        raise ValueError(
            "Expected a test set in which a query has another image of its class to "
            f"find. Received: {len(labels)} images of {len(classes)} classes without "
            f"such a pair{copies}. Add images of the same classes, or (with "
            "`--test-fraction`) classes."
        )
    if len(np.unique(labels)) == 1:
        logger.warning(
            "The test set has one class only: every ranking of it is perfect. Hold out "
            "more classes (`--test-fraction`)."
        )


def read_run_data(
    settings: RunSettings,
    listed: Sequence[ListedImage] | None = None,
    *,
    verbose: int = 0,
) -> RunData:
    """Read, split and cache the images.

    Args:
        settings: those of the run.
        listed: the images that the run began with, if it is resumed. Others are left
            out, and what is new, gone or changed is told.
        verbose: 1 shows progress bars.

    Raises:
        ValueError: if the data cannot be read, or not be split; see `split_sets`; or
            one part has too few images or classes.
    """
    settings = with_image_size(settings)
    sets = read_image_sets(settings, verbose=verbose)
    root = data_root(settings.data)
    if listed is None:
        train, test, queries = split_sets(sets, settings)
        if settings.data != BUILT_IN:
            listed = list_images(train, test, queries, root)
            hashes = listed_hashes(listed, root)
    else:
        hashes = hash_sets(sets, verbose=verbose)
        _warn_of_changes(listed, sets, root, hashes)
        size = settings.image_size
        train, test, queries = listed_sets(listed, sets, root, size)
    _check_training_set(train, settings)
    trained_labels, num_copies = train.labels, 0
    if listed is not None:
        trained = [row for row in listed if row.split == "train"]
        trained_labels = [row.label for row in trained]
        warn_of_training_copies(trained)
        test, queries, num_copies = leave_out_copies(
            test, queries, hashes, trained, root, keep=settings.keep_duplicates
        )
    check_test_set(test, queries, num_copies)
    seen = frozenset(np.intersect1d(trained_labels, test.labels).tolist()) - {-1}
    _warn_of_seen_classes(test, seen)
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
    return RunData(
        train, evaluation_crops, test, queries, skipped, listed, seen, num_copies
    )


def _warn_of_changes(listed, sets, root, hashes):
    """Tell what is not as it was when the run began."""
    changes = find_changes(listed, sets, root, hashes)
    log_changes(changes, listed, sets)
    if any(row.split == "train" for row in [*changes.gone, *changes.changed]):
        logger.warning(
            "The run goes on without the weights of an unbroken one: its training "
            "images are not all what they were. To get those, restore the images."
        )


def warn_of_no_list(settings: RunSettings) -> None:
    """Say that a run of an earlier version has not listed its images."""
    logger.warning(
        "The run has no `split.csv`, as it was begun by an earlier version: it is not "
        "known which images of %s it was trained on. The split is drawn from what is "
        "there now, which is another if classes have come or gone since.",
        settings.data,
    )


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
