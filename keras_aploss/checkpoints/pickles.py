"""Read the data of a pickle without running it.

A pickle is a program: it names functions of any module and has them called. Here
`pickletools` splits it into its instructions, and the few that build data are carried
out on plain Python values. A function or class that it names is looked up in a table of
this package and nowhere else, so nothing is imported and nothing outside the table is
called. What is not in the table ends the reading with an error that names it.

Work and memory are bounded by the size of the pickle. Nothing here is recursive, and
keys of dictionaries are single values, whose hashes are cheap.
"""

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

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
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
KEYS = (str, bytes, int, float, type(None))


class RefusedError(ValueError):
    """What stands in a file, after "Received:", and how to mend it."""

    def __init__(self, what: str, mend: str):
        super().__init__(what, mend)
        self.what = what
        self.mend = mend


class PickledObject:
    """An object of a class that is not there: its name and its attributes."""

    def __init__(self, class_name: str):
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}


class _Global:
    """A function or class that a pickle names, and what stands for it here."""

    def __init__(self, name, make):
        self.name = name
        self.make = make


class _EmptyArray:
    """What NumPy's pickles make first, to give it shape and data afterwards."""


def interpret(
    stream: BinaryIO,
    known: Mapping[str, Callable],
    load: Callable[[tuple], Any] | None = None,
) -> Any:
    """Read one pickle.

    Args:
        stream: a binary file, or a memory map; it is left behind the pickle.
        known: what stands for functions and classes, by their full names, in addition
            to dictionaries, bytes, and NumPy's arrays and numbers.
        load: makes the values that the pickle keeps elsewhere, from their ids.

    Returns:
        The object. Objects of the classes in `CLASSES` are read as `PickledObject`.

    Raises:
        RefusedError: the pickle names a function or class that is not known, or uses an
            instruction that makes no data.
        ValueError, TypeError, IndexError, KeyError, AttributeError: it is damaged.
    """
    machine = _Machine(known, load)
    for instruction, argument, position in pickletools.genops(stream):
        if instruction.name == "STOP":
            (value,) = machine.stack
            if machine.marks:
                raise ValueError("a mark that nothing follows")
            return value
        machine.step(instruction.name, argument, position)


class _Machine:
    """The stack, the marks on it and the memo of a pickle that is being read."""

    def __init__(self, known, load):
        self.known = {**KNOWN, "_codecs.encode": self._encode, **known}
        self.load = load
        self.stack = []
        self.marks = []
        self.memo = {}
        self.read = 0
        self.encoded = 0

    def step(self, name, argument, position):
        stack = self.stack
        self.read += 1 + (len(argument) if isinstance(argument, str) else 0)
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif not (self._memorize(name, argument) or self._collect(name)):
            self._make(name, argument, position)

    def _memorize(self, name, argument):
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def _collect(self, name):
        """Lists, tuples and dictionaries, and their items."""
        stack = self.stack
        match name:
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(PickledObject("builtins.set"))
            case "ADDITEMS":
                self._marked()
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS":
                items = self._marked()
                _extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = self._marked()
                _update(stack[-1], items)
            case _:
                return False
        return True

    def _marked(self):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _make(self, name, argument, position):
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(self._global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self._global(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, _Global) or not isinstance(
                    arguments, tuple
                ):
                    raise TypeError(f"a call of no function at byte {position}")
                stack.append(function.make(*arguments))
            case "BUILD":
                state, built = stack.pop(), stack[-1]
                stack[-1] = _with_state(built, state)
                if stack[-1] is not built:
                    for key, value in self.memo.items():
                        if value is built:
                            self.memo[key] = stack[-1]
            case "BINPERSID" if self.load is not None:
                stack.append(self.load(stack.pop()))
            case _:
                raise RefusedError(
                    f"the pickle instruction {name} at byte {position}, which "
                    "checkpoints do not use",
                    "Take the file from its authors again.",
                )

    def _encode(self, text, encoding):
        """How Python 3 writes bytes in the pickles of Python 2."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in the encoding {encoding!r:.20}")
        # One text encoded again and again would fill the memory.
        self.encoded += len(text)
        if self.encoded > self.read:
            raise ValueError("more bytes than were written")
        return text.encode("latin-1")

    def _global(self, module, attribute):
        # Python 3 writes the names of Python 2 for it.
        module = "builtins" if module == "__builtin__" else module
        name = f"{module}.{attribute}"
        if name in self.known:
            return _Global(name, self.known[name])
        if attribute in CLASSES.get(module, ()):
            return _Global(name, lambda *arguments: PickledObject(name))
        raise RefusedError(
            f"the name {name}, which is no part of a checkpoint; it was not imported "
            "and nothing was run",
            "Do not open such a file with `torch.load`. If you trust it, save its "
            "entries state_dict, model_options, preprocess and pca alone, where it was "
            "made.",
        )


def _extend(target, items):
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, PickledObject):
        raise TypeError("items of no list")


def _update(target, items):
    keys, values = items[::2], items[1::2]
    if isinstance(target, PickledObject):
        return
    if type(target) is not dict or len(keys) != len(values):
        raise TypeError("items of no dictionary")
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, KEYS):
            raise TypeError("a key of a dictionary that is no text or number")
        target[key] = value


def _with_state(built, state):
    """What an object becomes by the state that its pickle gives it."""
    match built:
        case PickledObject():
            if type(state) is dict:
                built.attributes = state
            return built
        case dict():
            return built  # of an OrderedDict: PyTorch's notes on versions
        case _EmptyArray():
            return _array(*state)
        case np.dtype():
            return built.newbyteorder(state[1])
    raise TypeError("a state of no object")


def _dtype(name, *flags):
    if not re.fullmatch(r"b1|[iuf][1248]", name) or name == "f1":
        raise RefusedError(
            f"a NumPy array of type {name!r:.20}",
            "Only arrays of numbers are read: take the file from its authors again.",
        )
    return np.dtype(name)


def _array(version, shape, dtype, is_fortran, data):
    if not isinstance(data, bytes) or not isinstance(dtype, np.dtype):
        raise TypeError("a NumPy array without bytes")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"a NumPy array of {len(data)} bytes and another shape")
    order = "F" if is_fortran else "C"
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _number(dtype, data):
    return _array(1, (), dtype, False, data)[()]


KNOWN = {
    "builtins.bytes": lambda: b"",  # how bytes of no length are written
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda *factory: {},
    "numpy.dtype": _dtype,
    "numpy.ndarray": lambda *arguments: PickledObject("numpy.ndarray"),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    KNOWN[f"{_module}._reconstruct"] = lambda *arguments: _EmptyArray()
    KNOWN[f"{_module}.scalar"] = _number
