"""A `.npy` file that is written over hours and survives a kill.

`PATH.partial` holds the header of the finished file and the rows so far; `PATH.json`
says what they are of, and how many of them have surely reached the disk. What was
written after the last such note is cut off when the work goes on. The finished file
gets its name in one step, and its note stays beside it.

Dimension key: N images, D units.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time

import keras
import numpy as np

from keras_aploss.embeddings.storage import (
    full_disk_explained,
    load_embeddings,
    write_header,
)

# Between two notes of what has reached the disk: what a kill can cost.
_SECONDS_AT_RISK = 10.0


class EmbeddingsFile:
    """The rows of a `.npy` file, appended in order, in one process or in several.

    Args:
        path: the file.
        count: N.
        settings: what the rows depend on, as JSON holds it.

    Attributes:
        done: the rows that are written.
        is_finished: whether all are there already.

    Raises:
        ValueError: if there is such a file already, with other settings or without a
            note that tells them.
    """

    def __init__(self, path, count: int, settings: dict):
        self.path = os.fspath(path)
        check_free(path)
        self.partial, self.note = f"{self.path}.partial", f"{self.path}.json"
        self.count, self.settings = count, settings
        self.done, self.units, self._file = 0, None, None
        self.is_finished = os.path.exists(self.path)
        if self.is_finished:
            self._read_note()

    def __enter__(self):
        # Not emptied: these may be the rows of hours.
        descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = os.fdopen(descriptor, "r+b")
        try:
            lock(self._file, self.path)
            self._go_on()
        except BaseException:
            self._file.close()
            raise
        return self

    def _go_on(self):
        """Find the end of the rows that are safe, and cut off what follows."""
        size = os.path.getsize(self.partial)
        if size:
            self._read_note()
        if not self.done:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.note)  # of a file that was deleted since
            self._file.truncate(0)
        elif size < self._size(self.done):
            raise ValueError(
                f"Expected {self.done} embeddings in {self.partial!r}, as its note "
                f"says. Received: {size:,} bytes, which hold fewer. Delete both and "
                "begin again."
            )
        else:
            self._file.truncate(self._size(self.done))
            self._file.seek(0, os.SEEK_END)
            self._check_room()
        self._noted = time.monotonic()

    def _read_note(self):
        try:
            with open(self.note, encoding="utf-8") as file:
                note = json.load(file)
            settings, done, units = note["settings"], note["done"], note["units"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Killed before the first note: nothing is lost by beginning again.
            if not self.is_finished and not os.path.exists(self.note):
                return
            raise ValueError(
                "Expected no file, or one that was extracted here. Received: "
                f"path={self.path!r}, whose note {self.note!r} cannot be read: "
                f"{error}. Choose another path, or delete both."
            ) from error
        if done or self.is_finished:
            require_same_settings(self.path, settings, self.settings)
        self.done, self.units = done, units

    def append(self, rows: np.ndarray) -> None:
        """Write the next `(B, D)` rows."""
        if self.units is None:
            self.units = rows.shape[1]
            self._check_room()
        if rows.shape[1] != self.units:
            raise ValueError(
                f"Expected embeddings of {self.units} units, as in {self.partial!r}. "
                f"Received: {rows.shape[1]}."
            )
        with self._explained():
            if not self.done:
                write_header(self._file, (self.count, self.units))
            self._file.write(np.ascontiguousarray(rows, "<f4"))
            self.done += len(rows)
            is_first = self.done == len(rows)
            if is_first or time.monotonic() - self._noted > _SECONDS_AT_RISK:
                self._note_down()

    def __exit__(self, kind, error, traceback):
        try:
            if self.done:
                with self._explained():
                    self._note_down()
        except OSError:
            # The first error says more than that of this attempt.
            if kind is None:
                raise
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
                if not self.done:
                    os.remove(self.partial)

    def finish(self) -> np.ndarray:
        """Give the whole file its name, and map it.

        Of a file that turns out to have fewer rows than was thought, `count` is set
        to `done` before.
        """
        if not self.is_finished:
            with open(self.partial, "r+b") as file:
                write_header(file, (self.count, self.units))  # of one size for any N
            os.replace(self.partial, self.path)
            self.is_finished = True
        return load_embeddings(self.path, count=self.count)

    def _note_down(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        note = {"done": self.done, "units": self.units, "settings": self.settings}
        unfinished = f"{self.note}.unfinished"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(note, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.note)
        self._noted = time.monotonic()

    def _size(self, rows):
        """Bytes of the header and some rows."""
        with open(self.partial, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return file.tell() + 4 * self.units * rows

    def _check_room(self):
        require_room(self.path, 4 * self.units * (self.count - self.done))

    @contextlib.contextmanager
    def _explained(self):
        with full_disk_explained(self.path, (self.count, self.units)):
            yield


def check_free(path) -> None:
    """Refuse a path that can hold no embeddings, or holds what was not made here."""
    path = os.fspath(path)
    if not path.endswith(".npy"):
        raise ValueError(f"Expected a path that ends in '.npy'. Received: {path=}.")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"Expected a path in an existing folder. Received: {path=}.")
    if os.path.exists(path) and not os.path.exists(f"{path}.json"):
        raise ValueError(
            f"Expected no file, or one that was extracted here. Received: {path=}, "
            "beside which no '.json' tells what it is of. Choose another path, or "
            "delete it."
        )


def is_begun(path) -> bool:
    """Whether a file holds rows, finished or not, that an extraction goes on from."""
    path = os.fspath(path)
    partial = f"{path}.partial"
    has_rows = os.path.exists(partial) and os.path.getsize(partial) > 0
    return os.path.exists(path) or (has_rows and os.path.exists(f"{path}.json"))


def lock(file, path: str) -> None:
    """Keep a second process from writing `path`, while `file` is open; a kill frees it.

    Raises:
        ValueError: another process does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"Expected no other process that writes to {path!r}. Received: one that "
            "does. Wait for it, or choose another path."
        ) from error
    except OSError:  # a network file system without locks
        return


def require_room(path: str, needed: int) -> None:
    """Refuse to begin what the disk cannot hold: `needed` bytes beside `path`."""
    free = shutil.disk_usage(os.path.dirname(path) or ".").free
    if free < needed:
        raise OSError(
            f"Expected room for {needed / 2**20:,.1f} MiB, what is still to be written "
            f"of {path!r}. Received: {free / 2**20:,.1f} MiB. Make room, or choose "
            "another place."
        )


def require_same_settings(path: str, there: dict, here: dict) -> None:
    """Refuse to go on with other settings than those that are there, and name them."""
    names = dict.fromkeys([*here, *there])
    different = [name for name in names if here.get(name) != there.get(name)]
    if different:
        before = ", ".join(f"{name}={there.get(name)!r}" for name in different)
        now = ", ".join(f"{name}={here.get(name)!r}" for name in different)
        raise ValueError(
            f"Expected the settings with which {path!r} was begun: {before}. "
            f"Received: {now}. Go on with those, choose another path, or delete it and "
            "begin again."
        )


def settings_of(model: keras.Model, images, **settings) -> dict:
    """What embeddings depend on, in values of JSON; long lists as digests."""
    weights = (keras.ops.convert_to_numpy(weight) for weight in model.weights)
    return {**describe_images(images), "weights": _digest(*weights), **settings}


def describe_images(images) -> dict:
    """Which images, and how they are read, in values of JSON."""
    described = {"images": len(images)}
    if isinstance(images, np.ndarray):
        described["pixels"] = _digest(np.ascontiguousarray(images))
    elif hasattr(images, "paths"):
        for name, value in vars(images).items():
            with contextlib.suppress(TypeError):  # what JSON does not hold
                described[name] = _short(value)
    return described


def digest_of(value) -> str:
    """A digest of what JSON holds."""
    return _digest(np.frombuffer(json.dumps(value).encode(), np.uint8))


def _short(value):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return digest_of(value)


def _digest(*arrays):
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
