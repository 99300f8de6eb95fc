"""Lists of images: those that a command is given, and those that it writes."""

import csv
import io
import pathlib

from keras_aploss.datasets import divide_by_format, walk_images
from keras_aploss.embeddings import (
    import_parquet,
    is_shard_folder,
    read_shard,
    whole_shards,
)
from keras_aploss.images import SkippedImage
from keras_aploss.search import label_in

_PARQUET = (".parquet", ".pq")
LISTS = (".txt", ".csv", *_PARQUET)  # files that hold paths of images


def listed_paths(images: pathlib.Path) -> tuple[list[str], list[SkippedImage]]:
    """The paths that a folder or a list holds, and files of formats not read."""
    rows, others = listed_rows(images)
    return [path for path, _ in rows], others


def listed_rows(
    images: pathlib.Path,
) -> tuple[list[tuple[str, str]], list[SkippedImage]]:
    """The (path, label) rows of a folder or a list, and files of formats not read.

    In a folder the label is the sub-folder, in a table what its column `label` says.
    """
    others = []
    if is_shard_folder(images):
        rows = [row for path in whole_shards(images) for row in _shard_rows(path)]
    elif images.is_dir():
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


def _shard_rows(path):
    shard = read_shard(path, columns=["path", "label"])
    return zip(shard.paths, shard.labels, strict=True)


def _read_list(file):
    kind = file.suffix.lower()
    if kind in _PARQUET:
        paths, labels = _read_parquet(file)
    elif kind == ".csv":
        paths, labels = _read_csv(file)
    else:
        paths = _read_text(file).splitlines()
        labels = [""] * len(paths)
    rows = zip(paths, labels, strict=True)
    if kind not in _PARQUET:
        # Written by hand, with spaces that nobody sees.
        rows = [((path or "").strip(), (label or "").strip()) for path, label in rows]
    return [(str(file.parent / path), label or "") for path, label in rows if path]


def _expected(file):
    return f"Expected a list of images in UTF-8. Received: {str(file)!r},"


def _read_text(file):
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            return opened.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{_expected(file)} in which: {error}. Save it again."
        ) from error


def _read_csv(file):
    text = io.StringIO(_read_text(file), newline="")
    try:
        table = csv.DictReader(text, skipinitialspace=True, strict=True)
        header = [name.strip() for name in table.fieldnames or []]
        table.fieldnames = header
        _require_path(file, header)
        rows = list(table)
    except csv.Error as error:
        raise ValueError(
            f"{_expected(file)} in which: {error}. Save it again."
        ) from error
    return [row["path"] for row in rows], [row.get("label") for row in rows]


def _read_parquet(file):
    arrow, parquet = import_parquet()
    try:
        schema = parquet.read_schema(file)
        _require_path(file, schema.names)
        columns = [name for name in ("path", "label") if name in schema.names]
        table = parquet.read_table(file, columns=columns, partitioning=None)
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"Expected a Parquet file. Received: {str(file)!r}: {error}."
        ) from error
    columns = [table[name].cast(arrow.string()).to_pylist() for name in columns]
    return columns[0], columns[1] if len(columns) > 1 else [""] * len(columns[0])


def _require_path(file, columns):
    if "path" not in columns:
        raise ValueError(
            f"{_expected(file)} whose columns are {columns}: no path. Name the "
            "column of the files `path`."
        )


def write_table(path, header, rows) -> None:
    """Write a CSV file, which appears when it is whole."""
    unfinished = pathlib.Path(f"{path}.unfinished")
    # Names of files need not be UTF-8: their bytes are kept as they are.
    with open(
        unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        csv.writer(file).writerows([header, *rows])
    unfinished.replace(path)
