"""Ground truths that are published as pickles, read as data.

The problem: a pickle may hold one list in a thousand places without being longer for
it, or lists in lists that end the process that walks them. Here the result is
measured before it is handed on: its depth, and its size if it were written out.
"""

import mmap
import os
from typing import Any

import numpy as np

from keras_aploss.pickles import PickledObject, read_pickle

_DEEPEST = 20  # lists in lists
# Names stand in several places in all such files, but they are short: a value or letter
# for each byte is much already.
_MOST_EXPANDED = 16


def read_ground_truth(path: str | os.PathLike) -> Any:
    """Read a pickle of dictionaries, lists, text, numbers and arrays of these.

    Files written by Python 2 are read too, their text as Latin-1.

    Raises:
        ValueError: if the file names or holds anything else, lists in lists without
            end, or is damaged. Nothing that it names is run.
        OSError: if it can not be opened.

    Example:
    >>> import pathlib, pickle, tempfile, numpy as np
    >>> from keras_aploss.benchmarks.ground_truth import read_ground_truth
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "gnd.pkl")
    ...     _ = path.write_bytes(pickle.dumps({"easy": np.array([3, 1])}))
    ...     read_ground_truth(path)
    {'easy': array([3, 1])}
    """
    with open(path, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                contents = read_pickle(data)
                size, _ = _expanded(contents, {})
                if size > _MOST_EXPANDED * len(data):
                    raise ValueError(f"lists that stand for {size:.1e} values")
                return contents
        except ValueError as error:
            raise ValueError(
                "Expected a pickle of dictionaries, lists, text, numbers and NumPy "
                f"arrays. Received: path={os.fspath(path)!r}: {error}. Nothing of it "
                "was run. Download the file again from where it is published."
            ) from error


def _expanded(value, known, depth=0) -> tuple[int, int]:
    """Count the values inside a value, each as often as it is held, and its depth.

    Raises:
        ValueError: for what is no data, and lists that hold themselves.
    """
    match value:
        case dict():
            parts = [*value, *value.values()]
        case list() | tuple():
            parts = value
        case str() | bytes() | bytearray():
            return 1 + len(value), 0
        case np.ndarray():
            return 1 + value.size, 0
        case None | int() | float() | np.generic():
            return 1, 0
        case PickledObject():
            raise ValueError(f"it holds a {value.class_name}")
        case _:
            raise ValueError("it holds a type or a function")
    if depth < _DEEPEST and id(value) not in known:
        inside = [_expanded(part, known, depth + 1) for part in parts]
        size = 1 + sum(size for size, _ in inside)
        known[id(value)] = size, 1 + max((height for _, height in inside), default=0)
    if depth >= _DEEPEST or known[id(value)][1] + depth > _DEEPEST:
        raise ValueError(f"it has lists in lists, more than {_DEEPEST} deep")
    return known[id(value)]
