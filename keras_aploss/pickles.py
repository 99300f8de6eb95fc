"""Pickles as data: read without importing or running anything that they name.

The problem: published ground truths and weights are pickles, and a pickle is a program
that `pickle.load` obeys: it names functions of any module and has them called. Here
`pickletools` splits it into instructions, and the few that build data are carried out
on plain Python values. A function or class is looked up in a table of this module and
nowhere else; one that is not there ends the reading with an error that names it.

Work and memory are bounded by the size of the pickle: nothing is recursive, no byte is
copied again and again, keys of dictionaries have cheap hashes. The result may still be
nested a million deep, hold itself, or hold one list in a thousand places: code that
walks it has to guard against that.
"""

import math
import pickletools
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

__all__ = ["Global", "NotDataError", "PickledObject", "check_sizes", "read_pickle"]

_INSTRUCTIONS = {code.code.encode("latin-1"): code for code in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),  # Python 2's `str`
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
_MOST_BITS = 8 * 255  # of an integer
_LONGEST_KEY = 1000
_MOST_AXES = 64  # NumPy has no more
_DAMAGE = (TypeError, IndexError, KeyError, AttributeError, OverflowError)


class NotDataError(ValueError):
    """A pickle names code or uses an instruction that makes no data."""


class PickledObject:
    """An object of a class that is not there: its name and its attributes."""

    def __init__(self, class_name: str, *arguments):
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}


class Global:
    """A function or class that a pickle names, and the function called in its place."""

    def __init__(self, name: str, make: Callable):
        self.name = name
        self.make = make


def read_pickle(
    stream: BinaryIO,
    known: Mapping[str, Callable] | None = None,
    *,
    load: Callable[[tuple], Any] | None = None,
) -> Any:
    r"""Read one pickle, of any protocol from 0 to 5, of Python 2 or 3.

    Args:
        stream: a memory map, or `io.BytesIO`; it is left behind the pickle.
        known: what is called in place of functions and classes, by the full names of
            these, in addition to dictionaries, bytes, and NumPy's arrays and numbers.
        load: returns the values that the pickle keeps elsewhere, from their ids.

    Returns:
        The object. What Python 2 called `str` is text, decoded as Latin-1. Arrays are
        read-only views of what was read, or writable ones in protocol 5. A type that is
        named and not called is a `Global`; a set is a `PickledObject`.

    Raises:
        NotDataError: the pickle names a function or class that is not known, holds an
            array of something else than numbers or text, or uses an instruction that
            makes no data.
        ValueError: it is damaged.

    Example:
    >>> import io, pickle
    >>> import numpy as np
    >>> from keras_aploss.pickles import read_pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"easy": np.array([3, 1])})))
    {'easy': array([3, 1])}
    >>> read_pickle(io.BytesIO(b"cos\nsystem\n(Vrm\ntR."))
    Traceback (most recent call last):
    ...
    keras_aploss.pickles.NotDataError: it names os.system
    """
    machine = _Machine(known or {}, load)
    for name, argument, position in _instructions(stream):
        if name == "STOP":
            if machine.marks or len(machine.stack) != 1:
                raise ValueError("it ends with a part that nothing takes up")
            return machine.stack[0]
        try:
            machine.step(name, argument, position)
        except _DAMAGE as error:
            told = " ".join(str(error).split())
            raise ValueError(f"{name} at byte {position} fails: {told}") from error


def check_sizes(sizes) -> None:
    """Raise a ValueError for numbers whose product alone could take hours."""
    if not (
        isinstance(sizes, tuple | list)
        and len(sizes) <= _MOST_AXES
        and all(type(size) is int and 0 <= size < 2**63 for size in sizes)
    ):
        raise ValueError("a NumPy array or tensor of an impossible shape")


def _instructions(stream) -> Iterator[tuple[str, Any, int]]:
    """Name, argument and place of each instruction.

    `pickletools.genops` does not read the bytes beyond ASCII of Python 2's protocol 0.
    """
    while True:
        position = stream.tell()
        code = stream.read(1)
        if code not in _INSTRUCTIONS:
            what = f"no instruction {code!r}" if code else "the end"
            raise ValueError(f"at byte {position} there is {what}")
        name, argument = _INSTRUCTIONS[code].name, _INSTRUCTIONS[code].arg
        if name == "STRING":
            yield name, _unquoted(stream.readline().strip()), position
        else:
            yield name, argument and argument.reader(stream), position


def _unquoted(line):
    """The text of a literal of Python 2, one character for a byte."""
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("a text without its quotes")
    return line[1:-1].decode("unicode_escape")


class _Machine:
    """The stack, the marks on it and the memo of a pickle that is being read."""

    def __init__(self, known, load):
        self.known = {**_KNOWN, "_codecs.encode": self._encode, **known}
        self.load = load
        self.stack = []
        self.marks = []
        self.memo = {}
        self.read = 0
        self.encoded = 0

    def step(self, name, argument, position):
        stack = self.stack
        self.read += 1 + (len(argument) if isinstance(argument, str) else 0)
        if name in _VALUES:
            if type(argument) is int and argument.bit_length() > _MOST_BITS:
                raise ValueError(f"an integer of {argument.bit_length():,} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            value = self.memo[argument]
            is_filled = isinstance(value, _EmptyArray) and value.array is not None
            stack.append(value.array if is_filled else value)
        elif not self._collect(name):
            self._make(name, argument, position)

    def _collect(self, name):
        """Make lists, tuples and dictionaries of what was read, or add to them."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "EMPTY_SET":
                stack.append(PickledObject("builtins.set"))
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._taken(name)))
            case "LIST":
                stack.append(self._taken(name))
            case "DICT":
                stack.append(_update({}, self._taken(name)))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = self._taken(name)
                _extend(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = self._taken(name)
                _update(stack[-1], items)
            case _:
                return False
        return True

    def _taken(self, name):
        """The values that an instruction takes off the stack: some, or to the mark."""
        count = _TAKEN.get(name)
        start = self.marks.pop() if count is None else max(0, len(self.stack) - count)
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
                if not isinstance(function, Global) or not isinstance(arguments, tuple):
                    raise TypeError("a call of no function")
                stack.append(function.make(*arguments))
            case "BUILD":
                state, built = stack.pop(), stack[-1]
                stack[-1] = self._with_state(built, state)
            case "BINPERSID" if self.load is not None:
                stack.append(self.load(stack.pop()))
            case _:
                raise NotDataError(f"instruction {name} at byte {position} is no data")

    def _with_state(self, built, state):
        """An object with the state that its pickle has for it."""
        match built:
            case _EmptyArray():
                _, shape, dtype, is_fortran, data = state
                data = self._encode(data, "latin-1") if isinstance(data, str) else data
                built.array = _as_array(data, dtype, shape, "F" if is_fortran else "C")
                return built.array
            case PickledObject():
                built.attributes = state if type(state) is dict else built.attributes
            case _DType():
                built.value = built.value.newbyteorder(state[1])
            case dict():
                pass  # of an OrderedDict: PyTorch's notes on versions
            case _:
                raise TypeError("a state of no object")
        return built

    def _encode(self, text, encoding):
        """The function by which Python 3 writes bytes in the pickles of Python 2."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in the encoding {reprlib.repr(encoding)}")
        # One text encoded again and again would fill the memory.
        self.encoded += len(text)
        if self.encoded > self.read:
            raise ValueError("more bytes than were written")
        return text.encode("latin-1")

    def _global(self, module, attribute):
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("a name that is no text")
        # Python 3 writes the names of Python 2 for it.
        module = "builtins" if module == "__builtin__" else module
        name = f"{module}.{attribute}"
        if name not in self.known:
            raise NotDataError(f"it names {name:.100}")
        return Global(name, self.known[name])


def _extend(target, items):
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, PickledObject):
        raise TypeError("items of no list")


def _update(target, items):
    keys, values = items[::2], items[1::2]
    if isinstance(target, PickledObject):
        return target
    if type(target) is not dict or len(keys) != len(values):
        raise TypeError("items of no dictionary")
    for key, value in zip(keys, values, strict=True):
        if not _is_key(key):
            raise TypeError("a key of a dictionary that is no number or short text")
        target[key] = value
    return target


def _is_key(key):
    """Whether it is a single value that takes no time to hash and to compare."""
    if isinstance(key, str | bytes):
        return len(key) <= _LONGEST_KEY
    if isinstance(key, int):
        return key.bit_length() <= 60
    return key is None or isinstance(key, float)


class _EmptyArray:
    """An array of NumPy before `BUILD` gives it shape and numbers."""

    def __init__(self, *unused):
        self.array = None


class _DType:
    """Stands for `numpy.dtype`: of numbers and text alone."""

    def __init__(self, name, *flags):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,8}", name):
            raise NotDataError(
                f"it holds an array of dtype {name!r:.20}, neither numbers nor text"
            )
        self.value = np.dtype(name)


def _as_array(data, dtype, shape, order="C"):
    """An array of the bytes of a pickle, without copying them."""
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _DType):
        raise TypeError("a NumPy array without bytes")
    check_sizes(shape)
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError(f"a NumPy array of {len(data)} bytes and another shape")
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _as_number(dtype, data):
    """A NumPy number of its bytes; Python 2 writes them as text."""
    data = data.encode("latin-1") if isinstance(data, str) and len(data) < 9 else data
    if dtype.value.kind in "SU":  # a copy of any length, again and again
        raise NotDataError("it holds a single text as a NumPy type")
    return _as_array(data, dtype, ())[()]


_KNOWN = {
    "builtins.bytes": lambda: b"",  # how bytes of no length are written
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda *factory: {},
    "numpy.dtype": _DType,
    "numpy.ndarray": _EmptyArray,
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    _KNOWN[f"{_core}.multiarray._reconstruct"] = _EmptyArray
    _KNOWN[f"{_core}.multiarray.scalar"] = _as_number
    _KNOWN[f"{_core}.numeric._frombuffer"] = _as_array
