"""Checks of arguments that all readers of images share."""

import os

import numpy as np


def as_list(paths) -> list[str]:
    """The paths as text; a single path is refused, whose letters would be files."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(
            f"Expected a list of paths. Received: paths={paths!r}. Write [path]."
        )
    return [os.fspath(path) for path in paths]


def require_positive(**arguments) -> None:
    """Refuse what is not a positive integer, by its name."""
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"Expected a positive integer. Received: {name}={value!r}."
            )
