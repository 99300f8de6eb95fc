"""Images that are listed: in a folder, a text file, a CSV or a Parquet file.

Parquet files need pyarrow (`pip install 'keras_aploss[scale]'`).
"""

import os
import pathlib
import unicodedata

from keras_aploss.datasets.labels import tidy_label
from keras_aploss.datasets.walk import divide_by_format, label_in, walk_images
from keras_aploss.images import SkippedImage
from keras_aploss.tables import import_parquet, is_utf16, read_table

_PARQUET = (".parquet", ".pq")
_FORMS = ("NFC", "NFD")  # of accented letters: one character each, or several
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
        (path, label) rows, the label empty where there is none; and what is left out
        of a folder, such as files whose format is not read.

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
        found = walk_images(images)
        rows = [(path, label_in(images, path)) for path in found.paths]
        rows, others = divide_by_format(rows)
        others += found.skipped
    else:
        rows = _read_list(images)
    if not rows:
        advice = f" Left out: {others[0].path!r}: {others[0].reason}." if others else ""
        raise ValueError(
            "Expected a folder or a list of images. Received: "
            f"{str(images)!r}, which has none.{advice}"
        )
    return rows, others


def is_list(path: str | os.PathLike) -> bool:
    """Whether a path has the suffix of a list, and not that of an image."""
    return pathlib.Path(path).suffix.lower() in _LISTS


def find_listed(
    folder: str | os.PathLike,
    name: str,
    listed_in: str | os.PathLike,
    *,
    is_text: bool = True,
) -> str:
    """The path of a file that a list names.

    Names come from other systems and through other programs: of blanks around a name
    and of composed or decomposed letters, the form counts that is there. A name that
    is not UTF-8 must be there as it stands, since whole lists are saved in other
    encodings.

    Args:
        folder: the folder of the relative names.
        name: what the list holds.
        listed_in: the list, for the error.
        is_text: whether blanks around a name may be none of it, as in a text file.

    Raises:
        ValueError: the name is not UTF-8, and there is no such file.
    """
    tidy = name.strip() if is_text else name
    if name == tidy and name.isascii():  # nearly all: they need no look at the disk
        return os.path.join(folder, name)
    forms = [name, tidy, *(unicodedata.normalize(form, tidy) for form in _FORMS)]
    for form in forms:
        path = os.path.join(folder, form)
        if os.path.lexists(path):
            return path
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            "Expected a list of images in UTF-8. Received: "
            f"{os.fspath(listed_in)!r}, with {name!r}, which is not "
            "UTF-8 and no file. Save it again."
        ) from error
    return os.path.join(folder, tidy)


def _read_list(file):
    kind = file.suffix.lower()
    if kind in _PARQUET:
        rows = _read_parquet(file)
    elif kind == ".csv":
        table = read_table(file, ["path"], short_lines=True, verbatim=["path"])
        rows = [(cells["path"], cells.get("label", "")) for _, cells in table]
    else:
        # A line ends where an editor ends it: names may hold what `splitlines` takes
        # for an end as well, such as U+2028.
        rows = [(line, "") for line in _read_text(file).split("\n")]
    return [
        (
            find_listed(file.parent, path, file, is_text=kind not in _PARQUET),
            tidy_label(label or ""),
        )
        for path, label in rows
        if path and path.strip()
    ]


def _read_text(file):
    if not file.is_file() or is_utf16(file):
        problem = "in UTF-16" if file.is_file() else "not a file"
        raise ValueError(
            f"Expected a folder or a list of images in UTF-8. Received: {str(file)!r}, "
            f"which is {problem}."
        )
    # Names are bytes that need not be UTF-8: see `find_listed`.
    return file.read_text(encoding="utf-8-sig", errors="surrogateescape")


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
