"""Checks of the arguments of an index, before anything is read or written.

Dimension key: D units.
"""

import os

import numpy as np

from keras_aploss.evaluation import check_unit_length
from keras_aploss.search.milvus import SERVERS, MilvusRows

_BYTES = {"id": 128, "path": 8192, "label": 1024}


def check_vectors(vectors, name: str, units: int) -> np.ndarray:
    """`(rows, D)` float32 of unit length."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
        raise ValueError(
            f"Expected `{name}` to be an array of (rows, {units}) numbers. "
            f"Received: {name}.shape={vectors.shape}, dtype={vectors.dtype}."
        )
    if vectors.shape[1] != units:
        raise ValueError(
            f"Expected `{name}` of {units} units, as the index has. Received: "
            f"{name}.shape={vectors.shape}, of another model."
        )
    vectors = np.ascontiguousarray(vectors, np.float32)
    check_unit_length(vectors, name, allow_zeros=False)
    return vectors


def check_location(location: str, is_new: bool) -> None:
    """Refuse what can be no index; `is_new` allows what does not exist yet."""
    if location.startswith(SERVERS):
        return
    if not location.endswith(".db"):
        raise ValueError(
            "Expected a path that ends in `.db`, or the address of a server such "
            f"as http://localhost:19530. Received: {location!r}."
        )
    if os.path.isfile(location):
        raise ValueError(
            "Expected an index, which is a folder, or none. Received: "
            f"{location!r}, a file. Choose another path."
        )
    if not is_new and not os.path.isdir(location):
        raise ValueError(
            f"Expected an index. Received: {location!r}, which does not "
            "exist. Make it with `keras-aploss index FOLDER`, or give `units`."
        )


def index_exists(
    location: str | os.PathLike, name: str = "images", token: str | None = None
) -> bool:
    """Whether there is an index to open at a location, see `VectorIndex`.

    Example:
    >>> from keras_aploss.search import index_exists
    >>> index_exists("nowhere.db")
    False
    """
    location = os.fspath(location)
    check_location(location, is_new=True)
    if not location.startswith(SERVERS) and not os.path.isdir(location):
        return False
    rows = MilvusRows(location, name, token)
    rows.close()
    return rows.about is not None


def check_texts(name: str, texts) -> None:
    """Refuse what the fields of an index do not hold."""
    for text in texts:
        try:
            fits = len(text.encode()) <= _BYTES[name]
        except (AttributeError, UnicodeEncodeError):
            fits = False
        if not fits:
            raise ValueError(
                f"Expected each {name} to be a text of at most {_BYTES[name]} bytes in "
                f"UTF-8. Received: {text!r}. Rename the file or shorten it."
            )
