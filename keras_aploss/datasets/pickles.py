"""Ground truths that come as pickles, read without running what they name.

A pickle is a program: it may call anything that can be imported, and `pickle.load`
obeys. Those of the benchmarks hold dictionaries, lists, text, numbers and NumPy arrays.
So much is built here by stand-ins; no function that a file names is ever called, not
even NumPy's. Anything else is refused by its name.
"""

import os
import pickle
import types
from typing import Any

import numpy as np

_KINDS = "biufSU"  # arrays of numbers and text


class _DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, name, align=False, copy=False):
        self.dtype = np.dtype(_text(name))
        if self.dtype.kind not in _KINDS:
            raise ValueError(f"it holds an array of dtype {self.dtype}")

    def __setstate__(self, state):
        _, order, *fields = state[:5]
        if any(field is not None for field in fields):
            raise ValueError("it holds an array with fields")
        # The width of a text is in the state, which for numbers says -1.
        if self.dtype.kind in "SU" and state[5] > 0:
            self.dtype = np.dtype((self.dtype.type, state[5] // self.dtype.alignment))
        self.dtype = self.dtype.newbyteorder(_text(order))


class _Array:
    """Stands for `numpy.ndarray`."""

    def __setstate__(self, state):
        _, shape, dtype, in_columns, contents = state
        self.array = _values(contents, dtype, shape, "F" if in_columns else "C")


def _values(contents, dtype, shape, order="C") -> np.ndarray:
    values = np.frombuffer(_bytes(contents), dtype.dtype)
    # In the byte order of this machine, and writable.
    return values.astype(dtype.dtype.newbyteorder("=")).reshape(shape, order=order)


def _scalar(dtype, contents):
    return _values(contents, dtype, (1,))[0]


def _from_buffer(contents, dtype, shape, order):
    array = _Array()
    array.array = _values(contents, dtype, shape, order)
    return array


def _text(value) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _bytes(value) -> bytes:
    """The bytes behind what Python 2 called `str`, and unpickling makes text."""
    return value.encode("latin1") if isinstance(value, str) else bytes(value)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"it encodes in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for `bytes`, by which Python 3 writes empty ones for Python 2."""
    return b""


_CORES = ("numpy.core", "numpy._core")
_STAND_INS = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{
        (f"{core}.{module}", name): stand_in
        for core in _CORES
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", lambda kind, shape, code: _Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def read_pickle(path: str | os.PathLike) -> Any:
    """Read a pickle of dictionaries, lists, text, numbers and arrays of these.

    Files written by Python 2 are read with their text as Latin-1.

    Raises:
        ValueError: if the file names anything else, or is damaged. Nothing that it
            names is run.
        OSError: if it can not be opened.

    Example:
    >>> import pathlib, pickle, tempfile, numpy as np
    >>> from keras_aploss.datasets.pickles import read_pickle
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "gnd.pkl")
    ...     _ = path.write_bytes(pickle.dumps({"easy": np.array([3, 1])}))
    ...     read_pickle(path)
    {'easy': array([3, 1])}
    """
    with open(path, "rb") as file:
        try:
            return _resolved(_Unpickler(file, encoding="latin1").load())
        # Hostile bytes raise almost anything: UnpicklingError, EOFError, KeyError,
        # struct.error, UnicodeDecodeError, TypeError of a stand-in, RecursionError...
        except Exception as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                "Expected a pickle of dictionaries, lists, text, numbers and NumPy "
                f"arrays. Received: path={os.fspath(path)!r}: {problem}. Nothing of it "
                "was run. Download the file again from where it is published."
            ) from error


def _resolved(value):
    """The same with arrays in the place of their stand-ins."""
    match value:
        case _Array():
            return value.array
        case dict():
            return {_resolved(key): _resolved(item) for key, item in value.items()}
        case list() | tuple() | set():
            return type(value)(_resolved(item) for item in value)
        case _DType() | type() | types.FunctionType():
            raise ValueError("it holds a type or a function")
    return value
