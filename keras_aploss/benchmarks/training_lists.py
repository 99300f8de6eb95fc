"""Published lists of images to train on: Landmarks-clean and Google Landmarks v2.

Both are lists of addresses, of which some are gone by now: images that are not there
are left out and listed in `ImageSet.skipped`.

Files that are read, below the root:

* `"landmarks_clean"`: `annotation_clean_train.txt`, also in `annotations/` or
  `annotations_landmarks/`: an address or path and an integer label per line. The image
  of an address is looked for under its last part, in the root or in `images/`; a path
  as it stands.
* `"gldv2"`: `train.csv` (id, url, landmark_id); `"gldv2_clean"`: `train_clean.csv`
  (landmark_id, images); in the root, `metadata/` or `train/`. Images:
  `train/0/1/2/0123....jpg`.

References: Babenko et al., "Neural Codes", 2014, cleaned by Gordo et al., 2016; Weyand
et al., 2020.
"""

import logging
import os
import pathlib

from keras_aploss.benchmarks.class_benchmarks import image_set
from keras_aploss.benchmarks.files import (
    Source,
    as_integer,
    check_distinct,
    find_file,
    missing_files,
    read_columns,
    read_words,
)
from keras_aploss.benchmarks.google_landmarks import image_path, metadata_places
from keras_aploss.benchmarks.sources import TRAINING_LISTS
from keras_aploss.datasets import ImageSet
from keras_aploss.images import SkippedImage

_logger = logging.getLogger(__name__)


def read_training_list(
    name: str, root: str | os.PathLike, *, image_size: int = 224, verbose: int = 0
) -> ImageSet:
    r"""Read a published list of images to train on.

    Args:
        name: `"landmarks_clean"`, `"gldv2"` or `"gldv2_clean"`.
        root: the folder of the lists and images.
        image_size: side of the square crops in pixels.
        verbose: 1 shows a progress bar over the files that are looked for.

    Returns:
        An `ImageSet`; images that are not there are in its `skipped`, with a warning
        of the logger.

    Raises:
        ValueError: there is no such list, or none of its images.

    Example:
    >>> import pathlib, tempfile
    >>> from keras_aploss.benchmarks import read_training_list
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = pathlib.Path(folder)
    ...     (root / "a.jpg").touch()
    ...     lines = "http://x.org/a.jpg 7\nhttp://x.org/b.jpg 7\n"
    ...     _ = (root / "annotation_clean_train.txt").write_text(lines)
    ...     images = read_training_list("landmarks_clean", root)
    >>> len(images.images), images.class_names, len(images.skipped)
    (1, ['7'], 1)
    """
    if name not in TRAINING_LISTS:
        raise ValueError(
            f"Expected one of {', '.join(TRAINING_LISTS)}. Received: {name=}."
        )
    readers = {
        "landmarks_clean": _read_landmarks,
        "gldv2": _read_gldv2,
        "gldv2_clean": _read_gldv2_clean,
    }
    source = Source(name, TRAINING_LISTS[name], pathlib.Path(root))
    rows = readers[name](source)
    check_distinct([path for path, _ in rows], f"the images of {name}")
    missing = set(missing_files([path for path, _ in rows], verbose=verbose))
    if len(missing) == len(rows):
        raise ValueError(
            f"Expected images of {name} below root={str(root)!r}. Received: none of "
            f"the {len(rows):,} that are listed, such as {rows[0][0]}. Download them "
            f"from {source.url}."
        )
    if missing:
        _logger.warning(
            "%d of the %d images of %s are not there and left out.",
            len(missing),
            len(rows),
            name,
        )
    rows = [row for row in rows if row[0] not in missing]
    names = sorted({label for _, label in rows}, key=int)
    skipped = [SkippedImage(path, "the file does not exist") for path in missing]
    return image_set(rows, names, image_size)._replace(skipped=sorted(skipped))


def _read_landmarks(source: Source) -> list[tuple[str, str]]:
    file = "annotation_clean_train.txt"
    folders = ("", "annotations/", "annotations_landmarks/")
    path = find_file(source, [f"{folder}{file}" for folder in folders])
    rows = []
    for image, label in read_words(path, ["image", "label"]):
        if "://" in image:
            image = image.rsplit("/", 1)[1]
        places = source.root / image, source.root / "images" / image
        found = next((p for p in places if p.is_file()), places[-1])
        rows.append((os.fspath(found), str(as_integer(label, path, "label"))))
    return rows


def _read_gldv2(source: Source) -> list[tuple[str, str]]:
    path = find_file(source, metadata_places("train.csv", "train"))
    return [
        (image_path(source.root, "train", name), _label(landmark, path))
        for name, landmark in read_columns(path, ["id", "landmark_id"])
    ]


def _read_gldv2_clean(source: Source) -> list[tuple[str, str]]:
    path = find_file(source, metadata_places("train_clean.csv", "train"))
    return [
        (image_path(source.root, "train", name), _label(landmark, path))
        for landmark, names in read_columns(path, ["landmark_id", "images"])
        for name in names.split()
    ]


def _label(landmark, path):
    return str(as_integer(landmark, path, "landmark_id"))
