"""The copies of one file in the images of a run: told, and left out of its metrics.

A copy of a query in the database is found first by any model, and one that was trained
on is no unseen image. So of the files of a test set that are equal in each byte

* with one label, one stays: a query before an image of the gallery, then the first by
  its path. A copy among the distractors is left out;
* with several labels, none stays: it is not known which label is right;
* and of the training set as well, none stays.

Copies within the training set lie about no metric. They stay, and are told.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.images import SkippedImage
from keras_aploss.runs.split import ListedImage, class_name_of, some_of

logger = logging.getLogger(__name__)

_COPIES, _OTHER_CLASS, _TRAINED = range(3)
_KINDS = {
    _COPIES: "have the contents of another one of their class",
    _OTHER_CLASS: "have the contents of another one of another class, and which of the "
    "classes is right is not known",
    _TRAINED: "have the contents of a training image",
}


class _Copy(NamedTuple):
    """A test image that is to be left out: its number, why, and of which file."""

    number: int
    kind: int
    of: str


def leave_out_copies(
    test: ImageSet,
    queries: np.ndarray | None,
    contents: Mapping[str, str],
    trained: Sequence[ListedImage] = (),
    root: str = "",
    *,
    keep: bool = False,
) -> tuple[ImageSet, np.ndarray | None, int]:
    """Leave the copies of a file out of a test set, and log which these are.

    Args:
        test: the test set, of `ImageFiles`.
        queries: the numbers of its queries; None: all images.
        contents: the hash of the contents of each file, by its path. Those without one
            have no copies; see `find_duplicates`.
        trained: the images that were trained on.
        root: the folder that the paths of `trained` are relative to.
        keep: leave all copies in, and log that.

    Returns:
        The test set, whose `skipped` lists what was left out; the numbers of its
        queries; and how many images were left out.
    """
    found = sorted(_find_copies(test, queries, contents, trained, root))
    _log(test, found, keep)
    if keep or not found:
        return test, queries, 0
    paths, out = test.images.paths, [one.number for one in found]
    end = {_TRAINED: ", a training image"}
    skipped = [
        SkippedImage(paths[one.number], f"a copy of {one.of}{end.get(one.kind, '')}")
        for one in found
    ]
    left = np.setdiff1d(np.arange(len(paths)), out)
    if queries is not None:
        queries = np.flatnonzero(np.isin(left, queries))
    test = test._replace(
        images=test.images[left],
        labels=test.labels[left],
        skipped=[*test.skipped, *skipped],
    )
    return test, queries, len(out)


def _log(test, found, keep):
    paths, names = test.images.paths, test.class_names
    named = [
        f"{_describe(paths[one.number], test.labels[one.number], names)} and {one.of}"
        for one in found
    ]
    for kind, what in _KINDS.items():
        pairs = [
            pair for one, pair in zip(found, named, strict=True) if one.kind == kind
        ]
        if pairs:
            logger.warning(
                "%d test images %s: %s. They are %s.",
                len(pairs),
                what,
                some_of(pairs),
                "kept, and the metrics are not those of different, unseen images"
                if keep
                else "left out of the metrics (`--keep-duplicates` keeps them)",
            )


def _find_copies(test, queries, contents, trained, root):
    """Yield a `_Copy` for each image that is to be left out."""
    paths, labels, names = test.images.paths, test.labels.tolist(), test.class_names
    trained_on = {row.hash: row for row in reversed(trained)}
    is_query = np.isin(np.arange(len(paths)), [] if queries is None else queries)
    groups = {}
    for number, path in enumerate(paths):
        groups.setdefault(contents.get(path) or path, []).append(number)
    for content, numbers in groups.items():
        numbers.sort(key=lambda i: (labels[i] < 0, not is_query[i], paths[i]))
        classes = {labels[i] for i in numbers if labels[i] >= 0}
        if content in trained_on:
            row = trained_on[content]
            of = _named(os.path.join(root, row.path), row.class_name)
            yield from (_Copy(i, _TRAINED, of) for i in numbers)
        elif len(classes) > 1:
            for i in numbers:
                other = next(j for j in numbers if labels[j] != labels[i])
                of = _describe(paths[other], labels[other], names)
                yield _Copy(i, _OTHER_CLASS, of)
        else:
            of = _describe(paths[numbers[0]], labels[numbers[0]], names)
            yield from (_Copy(i, _COPIES, of) for i in numbers[1:])


def warn_of_training_copies(trained: Sequence[ListedImage]) -> None:
    """Log how many training images are copies of others, and which of two classes.

    Args:
        trained: the images that are trained on.
    """
    groups = {}
    for row in trained:
        groups.setdefault(row.hash, []).append(row)
    copies, contradictions = [], []
    for rows in groups.values():
        first, *others = rows
        for row in others:
            is_same = row.label == first.label
            pair = [_named(one.path, one.class_name) for one in (row, first)]
            (copies if is_same else contradictions).append(" and ".join(pair))
    for pairs, what in ((copies, "their class"), (contradictions, "another class")):
        if pairs:
            logger.warning(
                "%d training images have the contents of another one of %s: %s. They "
                "are trained on.",
                len(pairs),
                what,
                some_of(pairs),
            )


def _describe(path, label, names):
    return _named(path, class_name_of(int(label), names))


def _named(path, name):
    return f"{path!r} ({name})"
