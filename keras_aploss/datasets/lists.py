"""Images that are listed: in a folder, a text file, a CSV or a Parquet file.

Parquet files need pyarrow (`pip install 'keras_aploss[scale]'`).
"""

import os
import pathlib

from keras_aploss.datasets.folder import divide_by_format, label_in, walk_images
from keras_aploss.images import SkippedImage
from keras_aploss.tables import import_parquet, read_table

_PARQUET = (".parquet", ".pq")
_LISTS = (".txt", ".csv", *_PARQUET)  # files that hold paths of images


def listed_rows(
    images: str | os.PathLike,
) -> tuple[list[tuple[str, str]], list[SkippedImage]]:
    r"""The images that a folder or a list names, with their labels.

    A folder is searched at any depth; the label is the sub-folder. A text file has a
    path on each line, a table a column `path` and, if wanted, `label`. Relative paths
    start at the folder of the list.

    Args:
        images: the folder, or a `.txt`, `.csv`, `.parquet` or `.pq` file.

    Returns:
        (path, label) rows, the label empty where there is none; and the files of a
        folder whose format is not read.

    Raises:
        ValueError: there are no images, or the list cannot be read; says why.
        ImportError: pyarrow is needed and not installed.

    Example:
    >>> import pathlib, tempfile
    >>> from keras_aploss.datasets import listed_rows
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "birds.csv")
    >>> _ = path.write_text("path,label\n/photos/1.jpg,crow\n/photos/2.jpg,")
    >>> listed_rows(path)
    ([('/photos/1.jpg', 'crow'), ('/photos/2.jpg', '')], [])
    """
    images, others = pathlib.Path(images), []
    if images.is_dir():
        found = [(path, "") for path in walk_images(str(images))]
        found, others = divide_by_format(found)
        rows = [(path, label_in(images, path)) for path, _ in found]
    else:
        rows = _read_list(images)
    if not rows:
        advice = f" Convert the {len(others)} of other formats." if others else ""
        raise ValueError(
            "Expected a folder or a list of images. Received: "
            f"{str(images)!r}, which has none.{advice}"
        )
    return rows, others


def is_list(path: str | os.PathLike) -> bool:
    """Whether a path has the suffix of a list, and not that of an image."""
    return pathlib.Path(path).suffix.lower() in _LISTS


def _read_list(file):
    kind = file.suffix.lower()
    if kind in _PARQUET:
        rows = _read_parquet(file)
    elif kind == ".csv":
        table = read_table(file, ["path"], short_lines=True)
        rows = [(cells["path"], cells.get("label", "")) for _, cells in table]
    else:
        # Written by hand, with spaces that nobody sees.
        rows = [(line.strip(), "") for line in _read_text(file).splitlines()]
    return [(str(file.parent / path), label or "") for path, label in rows if path]


def _read_text(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected a list of images in UTF-8. Received: {str(file)!r}, in which: "
            f"{error}. Save it again."
        ) from error


def _read_parquet(file):
    arrow, parquet = import_parquet()
    try:
        names = parquet.read_schema(file).names
        if "path" not in names:
            raise ValueError(
                f"Expected a list of images. Received: {str(file)!r}, whose columns "
                f"are {names}: no path. Name the column of the files `path`."
            )
        columns = [name for name in ("path", "label") if name in names]
        table = parquet.read_table(file, columns=columns, partitioning=None)
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"Expected a Parquet file. Received: {str(file)!r}: {error}."
        ) from error
    columns = [table[name].cast(arrow.string()).to_pylist() for name in columns]
    labels = columns[1] if len(columns) > 1 else [""] * len(columns[0])
    return zip(columns[0], labels, strict=True)
