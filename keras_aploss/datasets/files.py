"""One's own images, in folders or listed in a CSV file.

The problem: real collections hold empty, truncated and foreign files, hidden thumbnails
and classes that turn out empty. They are found before training, named, and left out.
"""

import csv
import logging
import os
import pathlib

import numpy as np

from keras_aploss.data import ImageFiles, SkippedImage, find_unreadable
from keras_aploss.datasets.image_set import ImageSet

_EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png")

_logger = logging.getLogger(__name__)


def _walk_images(folder):
    """List the images under a class's folder, sorted; links are followed, no circle."""
    found, visited = [], {os.path.realpath(os.path.dirname(folder))}
    for parent, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".")
            and os.path.realpath(os.path.join(parent, name)) not in visited
        ]
        found += [
            os.path.join(parent, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(_EXTENSIONS)
        ]
    return sorted(found)


def _readable_rows(rows, options):
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

    Images may lie deeper inside a class. Hidden files and files that are not images by
    their extension (bmp, gif, jpeg, jpg, png; upper or lower case) are ignored, links
    are followed, and the order is that of the sorted names. Every file is checked in
    full: the bad ones are in `skipped`, as are classes that are left with no image.

    Args:
        path: The folder.
        image_size: Length of the shorter side of the images in pixels.
        crop: Whether to keep the central square only, so that all shapes agree.
        workers: Threads that check the files; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        An `ImageSet` whose images are decoded on demand; `.images.load()` decodes all.

    Raises:
        ValueError: If `path` is not a folder, or holds no class or no readable image.

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
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    if not classes:
        raise ValueError(
            f"{expected} has no sub-folder. Sort its images by class into sub-folders, "
            "or list them with their labels in a file for `image_manifest`."
        )
    rows = [
        (file, name)
        for name in sorted(classes)
        for file in _walk_images(os.path.join(path, name))
    ]
    if not rows:
        raise ValueError(
            f"{expected} has {len(classes)} sub-folders without any image. Images are "
            f"known by their extension: {', '.join(_EXTENSIONS)}."
        )
    rows, skipped = _readable_rows(rows, {"workers": workers, "verbose": verbose})
    class_names = sorted({name for _, name in rows})
    for name in sorted(set(classes) - set(class_names)):
        _logger.warning("Class %r has no readable image and is left out.", name)
        reason = "the class has no readable image"
        skipped.append(SkippedImage(os.path.join(path, name), reason))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for _, name in rows], "int64")
    images = ImageFiles([file for file, _ in rows], image_size, crop=crop)
    return ImageSet(images, labels, class_names, skipped)


def _read_csv(csv_path):
    """Read the rows of a manifest as dictionaries without missing cells."""
    problem = f"Expected a CSV file in UTF-8. Received: csv_path={str(csv_path)!r},"
    if not csv_path.is_file():
        raise ValueError(f"{problem} which is not a file. Check its spelling.")
    try:
        with open(csv_path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{problem} in which: {error}. Save it again.") from error
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        raise ValueError(
            f"{problem} whose columns are {header}: no {' and no '.join(missing)}. "
            "Write a first line such as path,label,split, separated by commas."
        )
    columns = [n for n in ("path", "label", "class_name", "split") if n in header]
    for line, row in rows:
        empty = [name for name in columns if not (row[name] or "").strip()]
        if empty or None in row:
            what = f"no {empty[0]}" if empty else "more cells than the header"
            raise ValueError(f"{problem} with {what} in line {line}. Mend that line.")
    cells = [{name: row[name].strip() for name in columns} for _, row in rows]
    return [{"split": "all", "class_name": row["label"], **row} for row in cells]


def _number_labels(labels):
    """Number the distinct labels: integers in their order, other texts as texts."""
    try:
        ordered = sorted(set(labels), key=lambda label: (int(label), label))
    except ValueError:
        ordered = sorted(set(labels))
    return {label: number for number, label in enumerate(ordered)}


def _class_titles(table):
    """Match each label to its one class name."""
    titles = {}
    for row in table:
        title = titles.setdefault(row["label"], row["class_name"])
        if title != row["class_name"]:
            raise ValueError(
                "Expected one class name per label. Received: "
                f"label={row['label']!r} named {title!r} and {row['class_name']!r}. "
                "Give them the same name, or two labels."
            )
    return titles


def image_manifest(
    csv_path: str | os.PathLike,
    *,
    image_size: int,
    root: str | os.PathLike | None = None,
    crop: bool = True,
    workers: int | None = None,
    verbose: int = 0,
) -> dict[str, ImageSet]:
    r"""Read a CSV file that lists images.

    Its columns: `path`, `label` (any text), and if wanted `class_name` (a title for the
    label) and `split` (such as train and test). Others are ignored.

    Args:
        csv_path: The file.
        image_size: Length of the shorter side of the images in pixels.
        root: Folder of the relative paths; by default that of the file.
        crop: Whether to keep the central square only, so that all shapes agree.
        workers: Threads that check the files; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        An `ImageSet` per value of `split`, or the only one under "all". They share one
        numbering of the labels. Unreadable files are in the `skipped` of their split.

    Raises:
        ValueError: If the file is not such a table, or lists no readable image.

    Example:
    >>> import pathlib, tempfile
    >>> import numpy as np, PIL.Image
    >>> from keras_aploss import image_manifest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.png"):
    ...         PIL.Image.new("RGB", (60, 40)).save(pathlib.Path(folder, name))
    ...     csv_path = pathlib.Path(folder, "list.csv")
    ...     rows = "path,label,split\na.png,crow,train\nb.png,jay,test\n"
    ...     _ = csv_path.write_text(rows)
    ...     sets = image_manifest(csv_path, image_size=32)
    >>> sorted(sets), sets["test"].labels, sets["test"].class_names
    (['test', 'train'], array([1]), ['crow', 'jay'])
    """
    csv_path = pathlib.Path(csv_path)
    folder = os.fspath(csv_path.parent if root is None else root)
    table = _read_csv(csv_path)
    if not table:
        raise ValueError(
            f"Expected a line per image. Received: csv_path={str(csv_path)!r}, which "
            "has none after its header. Add them."
        )
    titles = _class_titles(table)

    def file(row):
        return os.path.join(folder, row["path"])

    rows = [(file(row), row) for row in table]
    rows, skipped = _readable_rows(rows, {"workers": workers, "verbose": verbose})
    numbers = _number_labels([row["label"] for _, row in rows])
    for label in sorted({row["label"] for row in table} - set(numbers)):
        _logger.warning("Label %r has no readable image and is left out.", label)
    class_names = [titles[label] for label in numbers]
    sets = {}
    for split in sorted({row["split"] for row in table}):
        listed = {file(row) for row in table if row["split"] == split}
        chosen = [(path, row) for path, row in rows if row["split"] == split]
        labels = np.array([numbers[row["label"]] for _, row in chosen], "int64")
        images = ImageFiles([path for path, _ in chosen], image_size, crop=crop)
        bad = [item for item in skipped if item.path in listed]
        sets[split] = ImageSet(images, labels, class_names, bad)
    return sets
