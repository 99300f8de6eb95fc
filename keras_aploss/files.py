"""Files that are whole or not there, and locks.

A process can be killed at any moment, and a disk can be full. So a file is written
beside its place, under a hidden name, brought to the disk (`fsync`) and then given its
name in one step, which the file system does wholly or not at all: whoever opens it
finds the old contents or the new ones. A lock is held by the kernel for the process,
and ends with it, however it ends.

Needs nothing but the standard library.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from typing import IO

_ENDING = ".unfinished"
_counter = itertools.count()  # two threads that write the same file do not meet


def as_text(name: str | os.PathLike) -> str:
    r"""A name as a text that can be shown, and written anywhere.

    A file system stores names as bytes, of which Python makes texts. Those that are no
    UTF-8 hold halves of characters then, which no file in UTF-8, no terminal and no
    other program takes. Here they are replaced by escapes, as errors show them; what
    is read back, as paths are, is kept as it is instead (`tables.write_table`, JSON).

    >>> as_text(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    'caf\\udce9.jpg'
    >>> as_text("caf\xe9.jpg")
    'caf\xe9.jpg'
    """
    return os.fspath(name).encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def replaced(path: str | os.PathLike, mode: str = "w", **options) -> Iterator[IO]:
    """Open a new file that takes the place of `path` when the block ends well.

    Where the block raises an error, or the process is killed, `path` stays as it was.

    Args:
        path: the file. A symbolic link is followed, the permissions of a file that is
            there are kept.
        mode: "w" for text, in UTF-8 unless `options` say otherwise; "wb" for bytes.
        options: of `open`.

    Raises:
        OSError: it cannot be written; says which file and why, with the `errno`.

    Example:
    >>> import pathlib, tempfile
    >>> from keras_aploss.files import replaced
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "note.txt")
    >>> with replaced(path) as file:
    ...     _ = file.write("whole")
    ...     path.exists()
    False
    >>> path.read_text()
    'whole'
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with replaced_path(path) as unfinished, open(unfinished, mode, **options) as file:
        yield file


@contextlib.contextmanager
def replaced_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """As `replaced`, for a library that writes to a path and not to an open file.

    The path that it yields has the suffix of `path` and lies in the same folder.

    Example:
        with replaced_path("best.keras") as unfinished:
            model.save(unfinished)
    """
    target = pathlib.Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(
            f"Expected to write a file. Received: {os.fspath(path)!r}, which is a "
            "folder or a device. Choose another path."
        )
    _remove_orphans(target.parent)
    unfinished = _unfinished(target)
    try:
        with _explained(path, unfinished):
            yield unfinished
            if target.exists():
                shutil.copymode(target, unfinished)
            _bring_to_disk(unfinished)
            os.replace(unfinished, target)
            _bring_to_disk(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(unfinished)
        raise


def _unfinished(target):
    """A hidden name that no other writer takes, and that tells whose it is."""
    # Cut, so that it is not too long where that of the file is not.
    stem, suffix = target.stem[:32], target.suffix[:16]
    owner = f"{_machine()}-{os.getpid()}-{next(_counter)}"
    return target.with_name(f".{stem}.{owner}{_ENDING}{suffix}")


@functools.cache
def _machine():
    """This machine since its start, or this container: where a process has a number."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            name = file.read() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        name = socket.gethostname()
    return f"{zlib.crc32(name.encode()):08x}"


def _remove_orphans(folder):
    """Remove what processes of this machine left that were killed while they wrote."""
    owned = re.compile(
        rf"\..*\.{_machine()}-(\d+)-\d+{re.escape(_ENDING)}.*", re.DOTALL
    )
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            owner = owned.fullmatch(name)
            if owner and not _is_alive(int(owner[1])):
                os.remove(os.path.join(folder, name))


def _is_alive(process):
    if os.name != "posix":  # there, `os.kill` would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        pass
    return True


def _bring_to_disk(path):
    """Wait until the disk has a file, or the names in a folder.

    Without it, a power cut can leave a new name without contents.
    """
    if os.name != "posix" and os.path.isdir(path):
        return
    flags = os.O_RDONLY if os.name == "posix" else os.O_RDWR
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    except OSError:
        if not os.path.isdir(path):  # some file systems cannot, for a folder
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path, unfinished):
    try:
        yield
    except OSError as error:
        # Of another file, or told already: left as it is.
        is_here = str(error.filename) in ("None", str(unfinished))
        if error.errno is None or not is_here:
            raise
        message = (
            f"Expected to write {os.fspath(path)!r}. Received: {error.strerror}. What "
            "was there before is kept. Make room, or choose another place."
        )
        kind = type(OSError(error.errno, ""))  # such as PermissionError
        explained = kind(message)
        explained.errno = error.errno
        raise explained from error


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str | None = None) -> Iterator[None]:
    """Keep other processes, and other threads, out of what a lock stands for.

    Args:
        path: the lock file, made for the time of the block. For a file `a.npy` take
            `a.npy.lock`, for a folder a file in it.
        what: what it stands for, in the words of the error, such as "the index 'i.db'";
            by default the path.

    Raises:
        BlockingIOError: another holds it; an `OSError` that says which process. The
            kernel frees the lock of a process that was killed. On Windows, and on file
            systems without locks, nothing is locked.

    Example:
    >>> import os, tempfile
    >>> from keras_aploss.files import locked
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "lock")
    >>> with locked(path):
    ...     with locked(path, "the file 'photos.npy'"):
    ...         pass
    Traceback (most recent call last):
    ...
    BlockingIOError: Expected no other process that has the file 'photos.npy' open.
    Received: one that has, process ... on .... Wait for it, or end it.
    """
    path = os.fspath(path)
    with contextlib.ExitStack() as stack:
        file = _lock_file(path, what or repr(path))
        stack.callback(file.close)  # which frees it
        stack.callback(_remove_if_posix, path)
        yield


def _lock_file(path, what):
    """Open and lock a file that is still the one at its path."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _flock(file, what)
            if _is_at(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
            file.close()  # who held it before has removed it
        except BaseException:
            file.close()
            raise


def _flock(file, what):
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(100).strip()
        holder = f", {holder}" if holder else ""
        raise BlockingIOError(
            f"Expected no other process that has {what} open. Received: one that has"
            f"{holder}. Wait for it, or end it."
        ) from error
    except OSError:  # a network file system without locks
        return


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_if_posix(path):
    # While it is held: who opened it meanwhile sees that it is gone, and tries again.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.remove(path)
