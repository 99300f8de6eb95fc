"""Read the data of a pickle without running it.

A pickle is a program: it names functions of any module and has them called. Here
`pickletools` splits it into its instructions, and the few that build data are carried
out on plain Python values. A function or class that it names is looked up in a table of
this package and nowhere else, so nothing is imported and nothing outside the table is
called. What is not in the table ends the reading with an error that names it.

Work and memory are bounded by the size of the pickle. Nothing here is recursive, no
byte is copied again and again, and keys of dictionaries are single values, whose hashes
are cheap. What comes out may still be nested a million deep, hold itself, or hold one
list in a thousand places: whoever walks it has to look out.
"""

import pickletools
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from keras_aploss.pickles.stand_ins import (
    KNOWN,
    DType,
    EmptyArray,
    Global,
    NotDataError,
    PickledObject,
    as_array,
)

INSTRUCTIONS = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),  # Python 2's `str`
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MOST_BITS = 8 * 255  # of an integer
_LONGEST_KEY = 1000
_DAMAGE = (TypeError, IndexError, KeyError, AttributeError, OverflowError)


def interpret(
    stream: BinaryIO,
    known: Mapping[str, Callable] | None = None,
    *,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    load: Callable[[tuple], Any] | None = None,
) -> Any:
    r"""Read one pickle, of any protocol from 0 to 5, of Python 2 or 3.

    Args:
        stream: a memory map, or `io.BytesIO`; it is left behind the pickle.
        known: what stands for functions and classes, by their full names, in addition
            to dictionaries, bytes, and NumPy's arrays and numbers.
        classes: names of classes, by their modules, whose objects become a
            `PickledObject`.
        load: makes the values that the pickle keeps elsewhere, from their ids.

    Returns:
        The object. What Python 2 called `str` is text, decoded as Latin-1. Arrays are
        read-only views of what was read, or writable ones in protocol 5. A type that is
        named and not called is a `Global`, or a `DType`; a set is a `PickledObject`.

    Raises:
        NotDataError: the pickle names a function or class that is not known, holds an
            array of something else than numbers or text, or uses an instruction that
            makes no data.
        ValueError: it is damaged.

    Example:
    >>> import io, pickle
    >>> import numpy as np
    >>> from keras_aploss.pickles.interpreter import interpret
    >>> interpret(io.BytesIO(pickle.dumps({"easy": np.array([3, 1])})))
    {'easy': array([3, 1])}
    >>> interpret(io.BytesIO(b"cos\nsystem\n(Vrm\ntR."))
    Traceback (most recent call last):
    ...
    keras_aploss.pickles.stand_ins.NotDataError: it names os.system
    """
    machine = _Machine(known or {}, classes or {}, load)
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


def _instructions(stream) -> Iterator[tuple[str, Any, int]]:
    """Name, argument and place of each instruction.

    As `pickletools.genops`, which cannot read the bytes beyond ASCII that Python 2
    writes with protocol 0.
    """
    while True:
        position = stream.tell()
        code = stream.read(1)
        if code not in INSTRUCTIONS:
            what = f"no instruction {code!r}" if code else "the end"
            raise ValueError(f"at byte {position} there is {what}")
        name, argument = INSTRUCTIONS[code].name, INSTRUCTIONS[code].arg
        if name == "STRING":
            yield name, _quoted(stream.readline()), position
        else:
            yield name, argument and argument.reader(stream), position


def _quoted(line):
    """The text of a literal of Python 2, one character for a byte."""
    line = line.strip()
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("a text without its quotes")
    return line[1:-1].decode("unicode_escape")


class _Machine:
    """The stack, the marks on it and the memo of a pickle that is being read."""

    def __init__(self, known, classes, load):
        self.known = {**KNOWN, "_codecs.encode": self._encode, **known}
        self.classes = classes
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
            if type(argument) is int and argument.bit_length() > _MOST_BITS:
                raise ValueError(f"an integer of {argument.bit_length():,} bits")
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
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                key, value = argument, self.stack[-1]
                key = len(self.memo) if name == "MEMOIZE" else key
                self.memo[key] = value
                if isinstance(value, EmptyArray):
                    value.keys.append(key)
            case "GET" | "BINGET" | "LONG_BINGET":
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
            case "LIST":
                stack.append(self._marked())
            case "DICT":
                stack.append(_update({}, self._marked()))
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
                if not isinstance(function, Global) or not isinstance(arguments, tuple):
                    raise TypeError("a call of no function")
                stack.append(function.make(*arguments))
            case "BUILD":
                state, built = stack.pop(), stack[-1]
                if isinstance(built, EmptyArray):
                    stack[-1] = self._fill(built, *state)
                else:
                    _set_state(built, state)
            case "BINPERSID" if self.load is not None:
                stack.append(self.load(stack.pop()))
            case _:
                raise NotDataError(
                    f"it has the instruction {name} at byte {position}, which makes no "
                    "data"
                )

    def _fill(self, empty, version, shape, dtype, is_fortran, data):
        """The array that takes the place of an empty one."""
        if isinstance(data, str):  # the bytes of Python 2
            data = self._encode(data, "latin-1")
        array = as_array(data, dtype, shape, "F" if is_fortran else "C")
        for key in empty.keys:
            if self.memo[key] is empty:
                self.memo[key] = array
        empty.keys.clear()
        return array

    def _encode(self, text, encoding):
        """How Python 3 writes bytes in the pickles of Python 2."""
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
        if name in self.known:
            return Global(name, self.known[name])
        if attribute in self.classes.get(module, ()):
            return Global(name, lambda *arguments: PickledObject(name))
        raise NotDataError(f"it names {name:.100}")


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
    match key:
        case str() | bytes():
            return len(key) <= _LONGEST_KEY
        case int():
            return key.bit_length() <= 60
    return key is None or isinstance(key, float)


def _set_state(built, state):
    """Give an object the state that its pickle has for it."""
    match built:
        case PickledObject():
            if type(state) is dict:
                built.attributes = state
        case dict():
            pass  # of an OrderedDict: PyTorch's notes on versions
        case DType():
            built.set_state(*state)
        case _:
            raise TypeError("a state of no object")
