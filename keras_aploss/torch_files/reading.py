"""Read files of `torch.save` without PyTorch, and without running what they hold.

Since version 1.6 such a file is a zip archive: a pickle `data.pkl`, and for each
storage of numbers an entry `data/<key>`, not compressed. Before, it was a row of
pickles (a magic number, the version of the format, notes on the machine, the object,
the keys of the storages), then each storage: its length in eight bytes and its numbers.
In both the pickle holds in place of a tensor a call: the key of its storage, an offset,
a shape and strides.

A tensor is read when it is asked for: the state of an optimizer, twice as large as the
weights, costs nothing if nobody wants it. Thousands of tensors may share a storage, and
take, read together, a thousand times the memory of the file: read one, use it, and let
it go.
"""

import functools
import io
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_aploss.pickles import (
    Global,
    NotDataError,
    PickledObject,
    check_sizes,
    read_pickle,
)

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8",
    "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "b1",
}  # fmt: skip
# Classes whose objects are data: PCA, which is read; the arguments of a training, its
# meters and Python's own types, which are not.
CLASSES = {
    "sklearn.decomposition.pca": ("PCA",),  # scikit-learn up to 0.21
    "sklearn.decomposition._pca": ("PCA",),
    "builtins": (
        *("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list"),
        *("object", "range", "set", "slice", "str", "tuple"),
        *("long", "unicode", "xrange"),  # what Python 3 writes for int, str, range
    ),
    "argparse": ("Namespace",),
    "torch": (
        *("bfloat16", "bool", "device", "float16", "float32", "float64", "int16"),
        *("int32", "int64", "int8", "uint8"),
    ),
    "utils.watcher": ("AverageMeter", "Watch"),
    "dirtorch.utils.watcher": ("AverageMeter", "Watch"),
}
# What is raised where a file is read whose bytes are not those that were written.
_DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError),
    *(OSError, RuntimeError, struct.error, zipfile.BadZipFile),
)


class RefusedError(ValueError):
    """The end of an error: the content of a file after "Received:", and the remedy."""

    def __init__(self, what: str, mend: str):
        super().__init__(what, mend)
        self.what = what
        self.mend = mend


class StoredTensor:
    """A tensor in a file; `numpy.asarray` reads it. bfloat16 becomes float32.

    Reading raises a ValueError if the numbers are missing or damaged; `require_stored`
    does so, without reading, if the file has fewer than the shape needs.
    """

    def __init__(
        self, read: Callable, require: Callable, shape: tuple[int, ...], dtype: str
    ):
        self._read = read
        self.require_stored = require
        self.shape = shape
        self.dtype = np.dtype("f4" if dtype == "bfloat16" else dtype)

    def __array__(self, dtype=None, copy=None):
        array = self._read()
        return np.array(array, dtype) if copy else np.asarray(array, dtype)


def read_torch_file(path: str | os.PathLike) -> Any:
    """Read a file of `torch.save`, in the form of today or from before version 1.6.

    Returns:
        What was saved: dictionaries, lists, numbers and texts, with a `StoredTensor`
        for each tensor, wherever it was (a tensor of a GPU too), NumPy arrays, and a
        `PickledObject` for each object of a class that is known to hold data.

    Raises:
        OSError: there is no such file.
        ValueError: it is no file of `torch.save`, is damaged, or names a function or
            class that is no part of a checkpoint. Nothing of what it names is imported
            or run.
    """
    with open(path, "rb") as file:
        try:
            return _read(file)
        except RefusedError as error:
            what, mend = error.what, error.mend
        except NotDataError as error:
            what = f"which is more than data: {error}; nothing was imported or run"
            mend = (
                "Do not open such a file with `torch.load`. If you trust it, save its "
                "entries state_dict, model_options, preprocess and pca alone, where it "
                "was made."
            )
        except _DAMAGE as error:
            what = f"which is damaged: {error or type(error).__name__}"
            mend = "Download it again."
    raise ValueError(
        "Expected a checkpoint of `torch.save`. Received: path="
        f"{os.fspath(path)!r}, {what}. {mend}"
    )


def _read(file):
    start = file.read(8)
    if start.startswith(b"PK"):
        return _read_archive(file.name)
    if start.startswith(b"\x80"):
        return _read_pickles(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    raise RefusedError(
        f"whose first bytes, {start!r}, are not of such a file",
        "Give the `.pt` file of the authors.",
    )


def _read_archive(path):
    archive = zipfile.ZipFile(path)  # open as long as there are tensors
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError(
            f"a zip archive without `data.pkl`, of {', '.join(names[:3]) or 'nothing'}",
            "Give the `.pt` file of the authors, unpacked if it is in there.",
        )
    root, size = pickles[0].removesuffix("data.pkl"), os.path.getsize(path)

    def find(name):
        entry = archive.getinfo(root + name)
        if not entry.compress_size == entry.file_size <= size:
            raise ValueError(f"its entry {name!r} is compressed, or cut short")
        return entry

    @functools.cache  # tensors may share a storage
    def read(name):
        return archive.read(find(name))

    is_big = f"{root}byteorder" in names and read("byteorder") == b"big"
    storages = _Storages(
        lambda key: read(f"data/{key}"),
        lambda key: find(f"data/{key}").file_size,
        ">" if is_big else "<",
    )
    return read_pickle(io.BytesIO(read("data.pkl")), storages.known, load=storages.load)


def _read_pickles(data):
    if read_pickle(data) != MAGIC:
        raise RefusedError(
            "a pickle that `torch.save` has not made",
            "Give the `.pt` file of the authors.",
        )
    read_pickle(data)  # the version of the format, which never changed
    is_little = read_pickle(data).get("little_endian", True)
    places = {}
    storages = _Storages(
        places.__getitem__, lambda key: len(places[key]), "<" if is_little else ">"
    )
    checkpoint = read_pickle(data, storages.known, load=storages.load)
    keys = read_pickle(data)
    start = data.tell()
    for key in keys:
        if not isinstance(key, str):
            raise TypeError("a storage whose key is no text")
        (count,) = struct.unpack_from(f"{storages.byteorder}q", data, start)
        size = count * storages.itemsizes[key]
        start += 8
        if count < 0 or start + size > len(data):
            raise ValueError(f"it ends within the storage {key!r}")
        places[key] = memoryview(data)[start : start + size]
        start += size
    return checkpoint


class _Reference(NamedTuple):
    """A storage that a pickle refers to."""

    key: str
    dtype: str
    count: int


class _Storages:
    """Makes the tensors of a file.

    Args:
        read: returns the bytes of a storage.
        size: returns their number, without reading them.
        byteorder: of the numbers.
    """

    def __init__(self, read: Callable[[str], Any], size: Callable, byteorder: str):
        self.read = read
        self.size = size
        self.byteorder = byteorder
        self.itemsizes = {}
        names = [f"{module}.{name}" for module in CLASSES for name in CLASSES[module]]
        self.known = {
            **{name: functools.partial(PickledObject, name) for name in names},
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *unused: tensor,
            "torch.Size": lambda sizes=(): sizes,
            # Named in the references to storages, and never called.
            **dict.fromkeys(f"torch.{name}Storage" for name in DTYPES),
        }

    def load(self, reference):
        """The storage that a pickle refers to, from its persistent id."""
        kind, storage, key, _, count, *view = reference
        # Keys are text: a key of a million tuples in tuples would overflow the stack.
        if not (
            kind == "storage" and isinstance(storage, Global) and isinstance(key, str)
        ) or any(part is not None for part in view):
            raise ValueError("a reference to something else than a storage")
        name = storage.name.removeprefix("torch.").removesuffix("Storage")
        dtype = DTYPES[name]
        self.itemsizes[key] = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        return _Reference(key, dtype, count)

    def tensor(self, storage, offset, shape, strides, *unused):
        if not isinstance(storage, _Reference):
            raise TypeError("a tensor without a storage")
        key, dtype, count = storage
        for sizes in (shape, strides, (offset, count)):
            check_sizes(sizes)
        reach = [(size - 1) * step for size, step in zip(shape, strides, strict=True)]
        size = math.prod(shape)
        if size > 0 and not (offset + sum(reach) < count and size <= count):
            raise ValueError(f"a tensor that reaches beyond its storage {key!r}")

        def read():
            return self._numbers(key, dtype, count, offset, shape, strides)

        def require():
            itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
            if size and self._explained(self.size, key) < count * itemsize:
                raise ValueError(f"the storage {key!r} is too short")

        return StoredTensor(read, require, shape, dtype)

    def _explained(self, function, key):
        try:
            return function(key)
        except _DAMAGE as error:
            raise ValueError(f"the storage {key!r} is damaged: {error}") from error

    def _numbers(self, key, dtype, count, offset, shape, strides):
        if math.prod(shape) == 0:
            return np.zeros(shape, "f4" if dtype == "bfloat16" else dtype)
        data = self._explained(self.read, key)
        plain = np.dtype("u2" if dtype == "bfloat16" else dtype)
        plain = plain.newbyteorder(self.byteorder)
        if count * plain.itemsize > len(data):
            raise ValueError(f"the storage {key!r} is too short")
        numbers = np.frombuffer(data, plain, count)
        steps = [step * plain.itemsize for step in strides]
        array = np.lib.stride_tricks.as_strided(
            numbers[offset:], shape, steps, writeable=False
        )
        if dtype == "bfloat16":  # the upper half of a float32
            return (array.astype("u4") << 16).view("f4")
        return array
