"""A user's own images, listed in a CSV file.

The problem: a benchmark is more than classes. Some images train, some are queries, some
the database, and some belong to no class: distractors. A table says all that without
moving a file.
"""

import collections
import logging
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_aploss.datasets.folder import readable_rows
from keras_aploss.datasets.image_set import ImageSet
from keras_aploss.datasets.labels import (
    compose,
    is_distractor,
    number_labels,
    tidy_label,
)
from keras_aploss.datasets.lists import find_listed
from keras_aploss.images import ImageFiles, SkippedImage
from keras_aploss.tables import read_table, write_table

_FLAGS = {
    **dict.fromkeys(["1", "true", "yes"], True),
    **dict.fromkeys(["0", "false", "no", ""], False),
}


_logger = logging.getLogger(__name__)


def _read_csv(csv_path, folder):
    """Read the rows of a manifest as dictionaries, with the path of each file."""
    expected = f"Expected a CSV file in UTF-8. Received: csv_path={str(csv_path)!r},"
    table = []
    for line, cells in read_table(
        csv_path, ["path", "label"], short_lines=True, verbatim=["path"]
    ):
        for name in {"label", "split"} & set(cells):
            cells[name] = tidy_label(cells[name])
        if mistake := _row_mistake(cells):
            raise ValueError(
                f"{expected} with {mistake} in line {line}. Mend that line."
            )
        path = find_listed(folder, cells["path"], csv_path)
        title = compose(cells.get("class_name", cells["label"]))
        named = {"path": path, "class_name": title, "line": line}
        table.append({**cells, **named, "sets": _row_sets(cells)})
    if not table:
        raise ValueError(
            f"Expected a line per image. Received: csv_path={str(csv_path)!r}, which "
            "has none after its header. Add them."
        )
    return table


def _without_repeated(table, csv_path):
    """Leave a file out of a set that an earlier line has put it into.

    It would find itself, and no ranking may count that.

    Returns:
        The rows with the sets that are left of each, and the repeated files by set.
    """
    first, seen, repeated = {}, {}, collections.defaultdict(list)
    for row in table:
        file = os.path.normpath(row["path"])
        label, line = first.setdefault(file, (row["label"], row["line"]))
        if label != row["label"]:
            raise ValueError(
                f"Expected one label per file. Received: csv_path={str(csv_path)!r}, "
                f"with {row['path']!r} under {label!r} in line {line} and under "
                f"{row['label']!r} in line {row['line']}. Remove one of them."
            )
        for name in row["sets"]:
            earlier = seen.setdefault((file, name), row["line"])
            if earlier != row["line"]:
                reason = (
                    f"line {row['line']}, which lists it again after line {earlier}"
                )
                repeated[name].append(SkippedImage(row["path"], reason))
        row["sets"] = [n for n in row["sets"] if seen[file, n] == row["line"]]
    return [row for row in table if row["sets"]], repeated


def _row_mistake(cells):
    """The first problem of a row, or None."""
    for name in ("query", "database"):
        if cells.get(name, "").lower() not in _FLAGS:
            return f"{name}={cells[name]!r}, neither 1 (true, yes) nor 0 (false, no)"
    needed = ["path", "label", "class_name"]
    # What a row that is a query or of the database says of its split is not used.
    needed += [] if _row_flags(cells) else ["split"]
    empty = [name for name in needed if not cells.get(name, "-").strip()]
    return f"no {empty[0]}" if empty else None


def _row_flags(cells):
    return [
        name for name in ("query", "database") if _FLAGS[cells.get(name, "").lower()]
    ]


def _row_sets(cells):
    """The names of the sets that a row goes into."""
    return _row_flags(cells) or [cells.get("split", "all")]


def _class_titles(table):
    """Match each label to its one class name."""
    titles = {}
    for row in table:
        if is_distractor(row["label"]):
            continue
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

    Its columns, of which the last four may be missing; others are ignored:

    * `path`: the image file. It has one label; a file that a set has already, from an
      earlier line, is left out and listed in `skipped`.
    * `label`: the class, any text. An integer below 0 marks a distractor: an image of
      no class, with label -1, that is never a query nor relevant. Whole numbers may be
      written as floats: `3.0` is the class 3, `-1.0` a distractor. `nan`, `none` and
      `null` are no labels, but an error.
    * `class_name`: a title for the label; by default the label itself.
    * `split`: the set that the image goes into, such as train or test.
    * `query` and `database`: 1, true or yes; or 0, false, no or nothing. Where one of
      them is true, the image goes into the set of that name, where both are, into
      both, and its `split` is not looked at and may be empty.

    Args:
        csv_path: the file.
        image_size: length of the shorter side of the images in pixels.
        root: folder of the relative paths; by default that of the file.
        crop: keep the central square only, so that all shapes agree.
        workers: threads that check the files; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        An `ImageSet` per set: "query", "database" and the values of `split`; without
        a column `split`, the images that are neither query nor database are in "all".
        The sets share one numbering of the labels. Unreadable files are in the
        `skipped` of their sets.

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
    table, repeated = _without_repeated(_read_csv(csv_path, folder), csv_path)
    titles = _class_titles(table)
    rows = [(row["path"], row) for row in table]
    rows, skipped = readable_rows(rows, {"workers": workers, "verbose": verbose})
    numbers = number_labels([row["label"] for _, row in rows])
    for label in sorted(set(titles) - set(numbers)):
        _logger.warning("Label %r has no readable image and is left out.", label)
    class_names = [titles[label] for label in numbers if label in titles]
    sets = {}
    for name in sorted({name for row in table for name in row["sets"]}):
        listed = {row["path"] for row in table if name in row["sets"]}
        chosen = [(path, row) for path, row in rows if name in row["sets"]]
        labels = np.array([numbers[row["label"]] for _, row in chosen], "int64")
        images = ImageFiles([path for path, _ in chosen], image_size, crop=crop)
        bad = [item for item in skipped if item.path in listed] + repeated[name]
        sets[name] = ImageSet(images, labels, class_names, bad)
    return sets


def write_manifest(
    csv_path: str | os.PathLike,
    sets: Mapping[str, ImageSet],
    *,
    overwrite: bool = False,
) -> None:
    """Write sets of image files as a CSV file that `image_manifest` reads.

    `train_run` and `keras-aploss train --data` take such a file, of a benchmark too.

    Args:
        csv_path: The file. Paths in it are absolute.
        sets: By the name of the split, such as train and test, sets of `ImageFiles`
            with one numbering of the labels.
        overwrite: Whether the file may exist.

    Raises:
        ValueError: If a set holds arrays instead of files, or the file exists.

    Example:
    >>> import pathlib, tempfile, numpy as np
    >>> from keras_aploss import ImageFiles, ImageSet
    >>> from keras_aploss.datasets import write_manifest
    >>> birds = ImageSet(ImageFiles(["/a.jpg"], 64), np.array([1]), ["crow", "jay"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     csv_path = pathlib.Path(folder, "birds.csv")
    ...     write_manifest(csv_path, {"train": birds})
    ...     csv_path.read_text().split()
    ['path,label,class_name,split', '/a.jpg,1,jay,train']
    """
    for name, images in sets.items():
        if not isinstance(images.images, ImageFiles):
            raise ValueError(
                f"Expected sets of `ImageFiles`. Received: sets[{name!r}].images="
                f"{type(images.images).__name__}, which has no paths."
            )
    csv_path = pathlib.Path(csv_path)
    if csv_path.exists() and not overwrite:
        raise ValueError(
            f"Expected a new file. Received: csv_path={str(csv_path)!r}, which exists. "
            "Remove it, or choose another name."
        )
    csv_path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        [os.path.abspath(path), label, _title(images, label), split]
        for split, images in sets.items()
        for path, label in zip(images.images.paths, images.labels, strict=True)
    ]
    write_table(csv_path, ["path", "label", "class_name", "split"], rows)


def _title(images, label):
    return images.class_names[label] if label >= 0 else "distractor"
