"""A user's own images, in one folder per class.

The problem: real collections hold empty, truncated and foreign files, hidden thumbnails
and classes that turn out empty. They are found before training, named, and left out.
"""

import logging
import os

import numpy as np

from keras_aploss.datasets.image_set import ImageSet
from keras_aploss.datasets.labels import compose
from keras_aploss.datasets.walk import (
    EXTENSIONS,
    divide_by_format,
    label_in,
    litter_reason,
    walk_images,
)
from keras_aploss.images import ImageFiles, SkippedImage, find_unreadable

_NAMED_CLASSES = 20  # of those with one image, in a warning

_logger = logging.getLogger(__name__)


def _warn_of_single_images(labels, class_names):
    """Name the classes in which no image has another one to find."""
    names = [class_names[k] for k in np.flatnonzero(np.bincount(labels) == 1)]
    if names:
        more = len(names) - _NAMED_CLASSES
        _logger.warning(
            "%d of %d classes have one image only: as a query it has no relevant one, "
            "and in the database it is a distractor. They are: %s",
            len(names),
            len(class_names),
            ", ".join(names[:_NAMED_CLASSES]) + (f" and {more} more" * (more > 0)),
        )


def readable_rows(rows, options):
    """Divide (path, ...) rows into those whose file is an image, and the skipped."""
    paths = list(dict.fromkeys(row[0] for row in rows))
    skipped = find_unreadable(paths, **options)
    if len(skipped) == len(paths):
        raise ValueError(
            f"Expected at least one readable image. Received: {len(paths)} files, all "
            f"unreadable, the first of them path={paths[0]!r}: {skipped[0].reason}. "
            "Check the paths and, for a manifest, `root`."
        )
    bad = {path for path, _ in skipped}
    return [row for row in rows if row[0] not in bad], skipped


def image_folder(
    path: str | os.PathLike,
    *,
    image_size: int,
    crop: bool = True,
    workers: int | None = None,
    verbose: int = 0,
) -> ImageSet:
    """Read a folder that has one sub-folder per class.

    Images may lie deeper inside a class. They are known by their extension: bmp, gif,
    jfif, jpe, jpeg, jpg or png, in upper or lower case. Hidden files and files that are
    no images are ignored, links are followed once to each place, and the order is that
    of the sorted names. Every image is checked in full: the bad ones are in `skipped`,
    as are those of formats that are not read, by their extension (webp, heic, avif, tif
    and others), folders that cannot be opened, those that systems and photo software
    fill with thumbnails (such as `@eaDir`), and classes that are left with no image.

    A class that is left with one image stays: as a query that image has no relevant one
    and no average precision, and in the database it is a distractor. A warning of the
    logger `keras_aploss.datasets` names such classes, those where
    `np.bincount(labels) == 1`.

    Args:
        path: the folder.
        image_size: length of the shorter side of the images in pixels.
        crop: keep the central square only, so that all shapes agree.
        workers: threads that check the files; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        An `ImageSet` whose images are decoded on demand; `.images.load()` decodes all.

    Raises:
        ValueError: `path` is not a folder, or holds no class or no readable image.

    Example:
    >>> from keras_aploss import image_folder
    >>> image_folder("nowhere", image_size=64)
    Traceback (most recent call last):
    ...
    ValueError: Expected a folder with one sub-folder per class. Received:
    path='nowhere', which does not exist. Check its spelling.
    """
    path = os.fspath(path)
    expected = "Expected a folder with one sub-folder per class."
    expected += f" Received: {path=}, which"
    if not os.path.isdir(path):
        problem = "is not a folder" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{expected} {problem}. Check its spelling.")
    classes = [
        entry.name
        for entry in os.scandir(path)
        if entry.is_dir()
        and not entry.name.startswith(".")
        and not litter_reason(entry.name)
    ]
    if not classes:
        raise ValueError(
            f"{expected} has no sub-folder. Sort its images by class into sub-folders, "
            "or list them with their labels in a file for `image_manifest`."
        )
    found = walk_images(path)
    rows = [(file, label_in(path, file)) for file in found.paths]
    rows, others = divide_by_format([row for row in rows if row[1]])
    if not rows:
        advice = f" Convert the {len(others)} of other formats." if others else ""
        raise ValueError(
            f"{expected} has {len(classes)} sub-folders without any image. Images are "
            f"known by their extension: {', '.join(EXTENSIONS)}.{advice}"
        )
    rows, skipped = readable_rows(rows, {"workers": workers, "verbose": verbose})
    skipped += others + found.skipped
    class_names = sorted({name for _, name in rows})
    for name in sorted(n for n in classes if compose(n) not in class_names):
        _logger.warning("Class %r has no readable image and is left out.", name)
        reason = "the class has no readable image"
        skipped.append(SkippedImage(os.path.join(path, name), reason))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for _, name in rows], "int64")
    _warn_of_single_images(labels, class_names)
    images = ImageFiles([file for file, _ in rows], image_size, crop=crop)
    return ImageSet(images, labels, class_names, skipped)
