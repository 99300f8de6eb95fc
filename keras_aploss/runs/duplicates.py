"""Exact duplicates in a test set: image files of the same contents.

A query finds its own copy first, whatever the model: with each photo there twice, an
untrained model has a mean average precision near 1. So copies are known by the hashes
of the files, listed, and left out of the metrics.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.images import ImageFiles, SkippedImage

logger = logging.getLogger(__name__)


def leave_out_duplicates(
    train: ImageSet | None,
    test: ImageSet,
    queries: np.ndarray | None,
    hashes: Mapping[str, str | OSError],
) -> tuple[ImageSet, np.ndarray | None, list[tuple[str, int]]]:
    """Leave copies out of a test set.

    - A file that is trained on, too, is left out.
    - Of copies in one class the first stays; queries come first.
    - Copies in several classes are all left out: it is not known which is right.

    Copies among the training images stay, since no figure is measured on them; a
    warning counts them, and names a file that is in two classes.

    Args:
        train: the training set, if it is known.
        test: the test set, with the same numbering of the classes.
        queries: the numbers of the queries, the first images of the test set; None:
            all images are queries.
        hashes: those of the files of both, see `images.hash_files`.

    Returns:
        The test set, with what is left out among its `skipped`; the numbers of its
        queries; and the path and label of each image that is left out.
    """
    if train is not None and isinstance(train.images, ImageFiles):
        _warn_of_copies_in_training(train, hashes)
        trained = {hashes[path]: path for path in reversed(train.images.paths)}
    else:
        trained = {}
    if not isinstance(test.images, ImageFiles):
        return test, queries, []
    reasons = {}
    for contents, same in _same_contents(test, hashes).items():
        reasons |= _reasons(test, same, trained.get(contents))
    if not reasons:
        return test, queries, []
    paths, labels = test.images.paths, test.labels
    copies = [(paths[i], int(labels[i])) for i in sorted(reasons)]
    skipped = [SkippedImage(paths[i], reasons[i]) for i in sorted(reasons)]
    logger.warning(
        "%d images of the test set are copies of other files, and are left out of the "
        "metrics, such as %r: %s.", len(copies), *skipped[0],
    )  # fmt: skip
    kept = [i for i in range(len(paths)) if i not in reasons]
    if queries is not None:
        queries = np.arange(np.count_nonzero(np.isin(kept, queries)))
    images = ImageFiles([paths[i] for i in kept], test.images.image_size)
    skipped = [*test.skipped, *skipped]
    test = test._replace(images=images, labels=labels[kept], skipped=skipped)
    return test, queries, copies


def _same_contents(images: ImageSet, hashes) -> dict[str, list[int]]:
    """The numbers of the images by their contents; of what cannot be read, none."""
    found = defaultdict(list)
    for number, path in enumerate(images.images.paths):
        if hashes[path] and isinstance(hashes[path], str):
            found[hashes[path]].append(number)
    return found


def _reasons(test, same, trained):
    """Why images of the same contents are left out, by their numbers."""
    paths, labels = test.images.paths, test.labels
    if trained is not None:
        return dict.fromkeys(same, f"it is trained on, as {trained!r}")
    others = {i: next((j for j in same if labels[j] != labels[i]), None) for i in same}
    if None not in others.values():
        return {
            i: f"the same file is in another class, as {paths[j]!r}"
            for i, j in others.items()
        }
    return dict.fromkeys(same[1:], f"it is a copy of {paths[same[0]]!r}")


def _warn_of_copies_in_training(train, hashes):
    groups = [same for same in _same_contents(train, hashes).values() if same[1:]]
    paths, labels = train.images.paths, train.labels
    if groups:
        logger.warning(
            "%d training images are copies of others, such as %r of %r.",
            sum(len(same) - 1 for same in groups),
            *(paths[i] for i in groups[0][1::-1]),
        )  # fmt: skip
    torn = [same for same in groups if len(set(labels[same].tolist())) > 1]
    if torn:
        logger.warning(
            "%d training files are in two classes or more, such as %s.",
            len(torn), " and ".join(repr(paths[i]) for i in torn[0]),
        )  # fmt: skip
