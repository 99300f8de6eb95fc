"""Checks of arguments for all readers of images."""

import os

import numpy as np


def as_list(paths) -> list[str]:
    """Return the paths as text; a single path is an error: its letters are no files."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(
            f"Expected a list of paths. Received: paths={paths!r}. Write [path]."
        )
    return [os.fspath(path) for path in paths]


def require_positive(**arguments) -> None:
    """Raise ValueError, naming the argument, unless all are positive integers."""
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"Expected a positive integer. Received: {name}={value!r}."
            )
