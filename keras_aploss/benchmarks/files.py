"""Files of benchmarks, found and read with errors that name what is missing.

The problem: nobody may ship these data sets, and their files lie where a download, an
archive or another program has put them. An error has to say which file is missing, from
where it comes and where to put it, before hours of work and not after them.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_aploss.tables import read_table

_AGAIN = "Download the file again, and leave it as it is published."
_SHOWN = 3  # of many missing or repeated names, in an error


class Source(NamedTuple):
    """The place from which the files of a benchmark can be had.

    Attributes:
        name: the benchmark.
        url: the page or file to download.
        root: the folder that the user gives.
    """

    name: str
    url: str
    root: pathlib.Path


def find_file(source: Source, places: Sequence[str]) -> pathlib.Path:
    """The first of some places below the root at which there is a file or folder.

    Raises:
        ValueError: if there is none.
    """
    found = next((source.root / p for p in places if (source.root / p).exists()), None)
    if found is None:
        others = "".join(f" (or {place})" for place in places[1:])
        raise ValueError(
            f"Expected {places[0]}{others} of {source.name} below root="
            f"{str(source.root)!r}. Received: no such file. Download it from "
            f"{source.url} and put it at {source.root / places[0]}."
        )
    return found


def read_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _bad_file(path, "a text file in UTF-8", error) from error
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def read_words(path: pathlib.Path, columns: Sequence[str]) -> list[list[str]]:
    """The rows of a text file without header, words separated by blanks."""
    rows = []
    for number, line in read_lines(path):
        # What exceeds the columns is part of the last one: paths may have blanks.
        words = line.split(maxsplit=len(columns) - 1)
        if len(words) != len(columns):
            raise _bad_file(path, f"lines of {' '.join(columns)}", f"line {number}")
        rows.append(words)
    return _not_empty(rows, path)


def read_columns(
    path: pathlib.Path, columns: Sequence[str], delimiter: str = ","
) -> list[list[str]]:
    """The cells of some columns of a CSV file with a header, row by row."""
    table = read_table(path, columns, delimiter=delimiter, advice=_AGAIN)
    return _not_empty([[cells[name] for name in columns] for _, cells in table], path)


def _not_empty(rows, path):
    if not rows:
        raise _bad_file(path, "at least one line with data", "none")
    return rows


def _bad_file(path, expected, received) -> ValueError:
    return ValueError(
        f"Expected {expected} in {str(path)!r}. Received: {received}. {_AGAIN}"
    )


def as_integer(text: str, path: pathlib.Path, what: str) -> int:
    """A cell that must be an integer."""
    try:
        return int(text)
    except ValueError:
        raise _bad_file(path, f"an integer {what}", repr(text)) from None


def check_distinct(names: Sequence[str], what: str) -> None:
    """Check that no image is listed twice, where it would have two indices."""
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]
        raise ValueError(
            f"Expected each of {what} once. Received: {len(twice)} repeated, "
            f"such as {', '.join(twice[:_SHOWN])}. Remove them from the list."
        )


def missing_files(paths: Sequence[str], *, verbose: int = 0) -> list[str]:
    """The paths at which there is no file."""
    missing, step = [], 1000
    progress = keras.utils.Progbar(len(paths), verbose=verbose, unit_name="file")
    for start in range(0, len(paths), step):
        some = paths[start : start + step]
        missing += [path for path in some if not os.path.isfile(path)]
        progress.add(len(some))
    return missing


def check_present(paths: Sequence[str], source: Source, *, verbose: int = 0) -> None:
    """Check that all images are there.

    Raises:
        ValueError: that counts the missing files and names the first.
    """
    missing = missing_files(paths, verbose=verbose)
    if missing:
        raise ValueError(
            f"Expected the {len(paths):,} images of {source.name} below root="
            f"{str(source.root)!r}. Received: {len(missing):,} of them missing, such "
            f"as {', '.join(missing[:_SHOWN])}. Download them from {source.url}."
        )
