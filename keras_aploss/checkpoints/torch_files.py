"""Read files of `torch.save` without PyTorch, and without running what they hold.

Since version 1.6 such a file is a zip archive: a pickle `data.pkl`, and for each
storage of numbers an entry `data/<key>`, not compressed. Before, it was a row of
pickles (a magic number, the version of the format, notes on the machine, the object,
the keys of the storages), then each storage: its length in eight bytes and its numbers.
In both the pickle holds in place of a tensor a call: the key of its storage, an offset,
a shape and strides.

The file is mapped into memory and a tensor is read when it is asked for: the state of
an optimizer, twice as large as the weights, costs nothing if nobody wants it.
"""

import io
import math
import mmap
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_aploss.pickles import Global, NotDataError, check_sizes, interpret

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8",
    "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "b1",
}  # fmt: skip
# Classes whose objects are data: PCA, which is read; the arguments of a training, its
# meters and Python's own types, which are not. They become a `PickledObject`.
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
OTHER_FILES = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a file compressed by gzip",
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS",
}
DAMAGED = (
    *(ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError),
    *(struct.error, zipfile.BadZipFile, NotImplementedError),
)


class RefusedError(ValueError):
    """What stands in a file, after "Received:", and how to mend it."""

    def __init__(self, what: str, mend: str):
        super().__init__(what, mend)
        self.what = what
        self.mend = mend


class StoredTensor:
    """A tensor in a file; `numpy.asarray` reads it. bfloat16 becomes float32."""

    def __init__(self, read: Callable, shape: tuple[int, ...], dtype: str):
        self._read = read
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
        ValueError: it is no such file, is damaged, or names a function or class that is
            no part of a checkpoint. Nothing of what it names is imported or run.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file():
            raise RefusedError("which is not a file", "Check its spelling.")
        return _read(path)
    except RefusedError as error:
        what, mend = error.what, error.mend
    except NotDataError as error:
        what = (
            f"which is more than data: {error}; nothing was imported, nothing was run"
        )
        mend = (
            "Do not open such a file with `torch.load`. If you trust it, save its "
            "entries state_dict, model_options, preprocess and pca alone, where it was "
            "made."
        )
    except DAMAGED as error:
        what = f"which is damaged: {error or type(error).__name__}"
        mend = "Download it again."
    raise ValueError(
        f"Expected a checkpoint of `torch.save`. Received: path={str(path)!r}, {what}. "
        f"{mend}"
    )


def _read(path):
    with open(path, "rb") as file:
        start = file.read(512)
        if not start:
            raise RefusedError("which is empty", "Download it again.")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, data)
    if start.startswith(b"\x80"):
        return _read_pickles(data)
    kinds = [kind for first, kind in OTHER_FILES.items() if start.startswith(first)]
    kinds += ["a tar archive"] if start[257:262] == b"ustar" else []
    kinds += ["a file of safetensors"] if start[8:10] == b'{"' else []
    kind = kinds[0] if kinds else f"a file that begins with {start[:8]!r}"
    raise RefusedError(f"which is {kind}", "Give the `.pt` file of the authors.")


def _read_archive(archive, data):
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        inside = [name for name in entries if name.endswith((".pt", ".pth"))]
        if inside:
            what = f"a zip archive with {inside[0]!r} in it"
            raise RefusedError(what, "Unpack it and give that file.")
        raise RefusedError(
            "a zip archive without `data.pkl`", "Give the `.pt` file of the authors."
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries or any("/code/" in name for name in entries):
        raise RefusedError(
            "a TorchScript archive, which holds a program",
            "Give a checkpoint made by `torch.save` of a dictionary.",
        )
    storages = _Storages(data)
    if f"{root}byteorder" in entries:
        start, size, _ = _place(entries[f"{root}byteorder"], data)
        storages.byteorder = ">" if data[start : start + size] == b"big" else "<"
    storages.places = {
        name.removeprefix(f"{root}data/"): _place(entry, data)
        for name, entry in entries.items()
        if name.startswith(f"{root}data/")
    }
    start, size, checksum = _place(entries[pickles[0]], data)
    _check(data, start, size, checksum, "data.pkl")
    stream = io.BytesIO(data[start : start + size])
    return interpret(stream, storages.known, classes=CLASSES, load=storages.load)


def _place(entry, data):
    """Offset, length and checksum of what an entry of an archive holds."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise RefusedError(
            f"an archive whose entry {entry.filename!r} is compressed or encrypted",
            "`torch.save` does neither: take the file from its authors again.",
        )
    # The entry is preceded by a header of 30 bytes, its name and padding.
    header = entry.header_offset
    if header < 0 or data[header : header + 4] != b"PK\x03\x04":
        raise ValueError(f"the entry {entry.filename!r} is not where it should be")
    start = header + 30 + sum(struct.unpack_from("<2H", data, header + 26))
    if entry.file_size != entry.compress_size or start + entry.file_size > len(data):
        raise ValueError(f"the entry {entry.filename!r} reaches beyond the file")
    return start, entry.file_size, entry.CRC


def _check(data, start, size, checksum, name):
    if checksum is not None:
        with memoryview(data) as view, view[start : start + size] as numbers:
            if zlib.crc32(numbers) != checksum:
                raise ValueError(f"the checksum of {name!r} is wrong")


def _read_pickles(data):
    if interpret(data) != MAGIC:
        raise RefusedError(
            "a pickle that `torch.save` has not made",
            "Give the `.pt` file of the authors.",
        )
    interpret(data)  # the version of the format, which never changed
    machine = interpret(data)
    storages = _Storages(data)
    storages.byteorder = "<" if machine.get("little_endian", True) else ">"
    checkpoint = interpret(data, storages.known, classes=CLASSES, load=storages.load)
    keys = interpret(data)
    start = data.tell()
    for key in keys:
        if not isinstance(key, str):
            raise TypeError("a storage whose key is no text")
        (count,) = struct.unpack_from(f"{storages.byteorder}q", data, start)
        size = count * storages.itemsizes[key]
        start += 8
        if count < 0 or start + size > len(data):
            raise ValueError(f"it ends within the storage {key!r}")
        storages.places[key] = start, size, None
        start += size
    return checkpoint


class _Reference(NamedTuple):
    """A storage that a pickle refers to."""

    key: str
    dtype: str
    count: int


class _Storages:
    """The storages of a file: where their numbers lie, and the tensors made of them."""

    def __init__(self, data):
        self.data = data
        self.byteorder = "<"
        self.places = {}
        self.itemsizes = {}
        self.known = {
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

        return StoredTensor(read, shape, dtype)

    def _numbers(self, key, dtype, count, offset, shape, strides):
        if math.prod(shape) == 0:
            return np.zeros(shape, "f4" if dtype == "bfloat16" else dtype)
        if key not in self.places:
            raise ValueError(f"the storage {key!r} is missing")
        start, size, checksum = self.places[key]
        plain = np.dtype("u2" if dtype == "bfloat16" else dtype)
        plain = plain.newbyteorder(self.byteorder)
        if count * plain.itemsize > size:
            raise ValueError(f"the storage {key!r} is too short")
        _check(self.data, start, size, checksum, key)
        numbers = np.frombuffer(self.data, plain, count, start)
        steps = [step * plain.itemsize for step in strides]
        array = np.lib.stride_tricks.as_strided(
            numbers[offset:], shape, steps, writeable=False
        )
        if dtype == "bfloat16":  # the upper half of a float32
            return (array.astype("u4") << 16).view("f4")
        return array
