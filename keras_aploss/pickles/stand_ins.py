"""What stands for the types and functions that a pickle of data may name.

NumPy's own functions are not among it: an array is a view of the bytes in the pickle,
made after type, shape and number of bytes are checked against each other.
"""

import math
import re
from typing import Any

import numpy as np

_REFUSED_KINDS = {
    "O": "Python objects", "V": "fields", "c": "complex numbers",
    "M": "dates", "m": "times",
}  # fmt: skip
_MOST_AXES = 64  # NumPy has no more


class NotDataError(ValueError):
    """A pickle names code or uses an instruction that makes no data."""


class PickledObject:
    """An object of a class that is not there: its name and its attributes."""

    def __init__(self, class_name: str):
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}


class Global:
    """A function or class that a pickle names, and what stands for it here."""

    def __init__(self, name, make):
        self.name = name
        self.make = make


class EmptyArray:
    """What NumPy's pickles make first, to give it shape and numbers afterwards.

    `keys` are those of the memo under which it is remembered meanwhile.
    """

    def __init__(self, *unused):
        self.keys = []


class DType:
    """Stands for `numpy.dtype`: of numbers and text alone."""

    def __init__(self, name, *flags):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,8}", name):
            kind = _REFUSED_KINDS.get(name[:1], "another type")
            raise NotDataError(f"it holds an array of {kind} (dtype {name!r:.20})")
        self.value = np.dtype(name)

    def set_state(self, version, order, *unused):
        """Take over the order of the bytes; the width is in the name."""
        self.value = self.value.newbyteorder(order)


def as_array(data, dtype, shape, order="C") -> np.ndarray:
    """An array of the bytes of a pickle, without copying them."""
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, DType):
        raise TypeError("a NumPy array without bytes")
    check_sizes(shape)
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError(f"a NumPy array of {len(data)} bytes and another shape")
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def check_sizes(sizes) -> None:
    """Check that numbers may be a shape, before they are multiplied.

    Raises:
        ValueError: they are too many or too large: the product alone could take hours.
    """
    if not (
        isinstance(sizes, tuple | list)
        and len(sizes) <= _MOST_AXES
        and all(type(size) is int and 0 <= size < 2**63 for size in sizes)
    ):
        raise ValueError("a NumPy array or tensor of an impossible shape")


def as_number(dtype, data) -> np.generic:
    """A NumPy number of its bytes; Python 2 writes them as text."""
    data = data.encode("latin-1") if isinstance(data, str) and len(data) < 9 else data
    if dtype.value.kind in "SU":  # a copy of any length, again and again
        raise NotDataError("it holds a single text as a NumPy type")
    return as_array(data, dtype, ())[()]


KNOWN = {
    "builtins.bytes": lambda: b"",  # how bytes of no length are written
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda *factory: {},
    "numpy.dtype": DType,
    "numpy.ndarray": lambda *arguments: PickledObject("numpy.ndarray"),
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    KNOWN[f"{_core}.multiarray._reconstruct"] = EmptyArray
    KNOWN[f"{_core}.multiarray.scalar"] = as_number
    KNOWN[f"{_core}.numeric._frombuffer"] = as_array
