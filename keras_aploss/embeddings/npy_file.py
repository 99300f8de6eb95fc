"""A `.npy` file of embeddings that is written over hours and survives a kill.

    FILE.npy.partial      the rows, with room for all of them
    FILE.npy.json         the note: of which settings, how many images are done
    FILE.npy              the finished file; the note stays beside it
    FILE.npy.csv, FILE.npy.skipped.csv     its images, and the files left out

The note is written when the rows that it counts have reached the disk, every ten
seconds: what follows them is embedded again. The room for the rows is reserved at
first, since a disk that is full could not be told from within a mapped file.

Dimension key: N images, B images per batch, D units.
"""

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np

from keras_aploss.embeddings.fingerprint import digest_of
from keras_aploss.embeddings.resumable import (
    EmbeddedBatch,
    note_progress,
    require_room,
    require_same_settings,
)
from keras_aploss.embeddings.storage import (
    full_disk_explained,
    load_embeddings,
    release_pages,
    write_header,
)
from keras_aploss.files import locked, replaced
from keras_aploss.images import SkippedImage, none_readable
from keras_aploss.tables import read_table, write_skipped, write_table

# Between two notes of what has reached the disk: what a kill can cost.
_SECONDS_AT_RISK = 10.0


class NpyFile:
    """A `.npy` file while its rows are made, in one process or in several.

    Args:
        path: the file.
        count: N. The file has a row for each image that can be read.
        settings: what the rows depend on, as JSON holds it.
        paths: of the images, to be listed beside the file; None: no lists.
        left_out: files to list as skipped that are none of the images.

    Attributes:
        is_finished: whether all rows are there already.
        missing, written, skipped: see `resumable`.

    Raises:
        ValueError: if there is such a file already, with other settings or without a
            note that tells them.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        count: int,
        settings: dict,
        *,
        paths: Sequence[str] | None = None,
        left_out: Sequence[SkippedImage] = (),
    ):
        self.path = os.fspath(path)
        check_npy_path(path)
        self.partial, self.note = f"{self.path}.partial", f"{self.path}.json"
        listed = {} if paths is None else {"paths": digest_of(paths)}
        self.count, self.settings = count, {"images": count, **listed, **settings}
        self.paths, self.left_out = paths, list(left_out)
        self.units, self._rows, self._lock = None, None, contextlib.ExitStack()
        self._done, self._reasons = 0, {}  # images dealt with; why some were left out
        self._noted = time.monotonic()
        self.is_finished = os.path.exists(self.path)
        if self.is_finished:
            self._read_note()

    @property
    def missing(self) -> list[range]:
        is_complete = self.is_finished or self._done == self.count
        return [] if is_complete else [range(self._done, self.count)]

    @property
    def written(self) -> int:
        return self._done - len(self._reasons)

    @property
    def skipped(self) -> list[SkippedImage]:
        named = self.paths or range(self.count)
        reasons = sorted(self._reasons.items())
        return [SkippedImage(named[i], why) for i, why in reasons] + self.left_out

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            if not self.is_finished:
                stack.enter_context(locked(f"{self.path}.lock", self.path))
                self.is_finished = os.path.exists(self.path)  # by another, just now
                self._open()
            self._lock = stack.pop_all()
        return self

    def _open(self):
        """Find the rows that are safe; what follows them is written again."""
        if self.is_finished or os.path.exists(self.partial):
            self._read_note()
        if self.is_finished:
            return
        if not self._done:
            for path in (self.note, self.partial):  # of a file that was deleted since
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
            return
        # When all is done, the file may have been cut to its rows already.
        rows = self.written if self._done == self.count else self.count
        size = os.path.getsize(self.partial)
        if size < _file_size(rows, self.units):
            raise ValueError(
                f"Expected {self.written} embeddings in {self.partial!r}, as its note "
                f"says. Received: {size:,} bytes, which hold fewer. Delete both and "
                "begin again."
            )
        self._rows = np.lib.format.open_memmap(self.partial, "r+")

    def _read_note(self):
        try:
            with open(self.note, encoding="utf-8") as file:
                note = json.load(file)
            settings, done, units = note["settings"], note["done"], note["units"]
            reasons = {int(i): reason for i, reason in note.get("skipped", ())}
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
        self._done, self.units, self._reasons = done, units, reasons

    def write(self, part: range, batches: Iterable[EmbeddedBatch]) -> None:
        """Append the rows of the images from `part.start` on."""
        for batch in batches:
            self._append(batch)

    def _append(self, batch):
        is_first = not self.units and len(batch.vectors)
        if is_first:
            self._create(batch.vectors.shape[1])
        if len(batch.vectors):
            if batch.vectors.shape[1] != self.units:
                raise ValueError(
                    f"Expected embeddings of {self.units} units, as in "
                    f"{self.partial!r}. Received: {batch.vectors.shape[1]}."
                )
            start = self.written
            self._rows[start : start + len(batch.vectors)] = batch.vectors
        # The count comes last: Ctrl-C in between leaves what it counts consistent.
        self._reasons |= {self._done + i: why for i, why in batch.skipped.items()}
        self._done += batch.size
        is_due = time.monotonic() - self._noted > _SECONDS_AT_RISK
        if is_first or (self.units and is_due):
            self._note_down()

    def _create(self, units):
        shape = (self.count, units)
        with full_disk_explained(self.path, shape):
            rows = np.lib.format.open_memmap(self.partial, "w+", "<f4", shape)
            is_reserved = _reserve(self.partial)
        if not is_reserved:
            size = os.path.getsize(self.partial)
            require_room(self.path, os.path.dirname(self.path) or ".", size)
        self._rows, self.units = rows, units

    def _note_down(self):
        with full_disk_explained(self.path, (self.count, self.units)):
            self._rows.flush()
        release_pages(self._rows)
        note = {"done": self._done, "units": self.units}
        note["skipped"] = list(self._reasons.items())
        with replaced(self.note) as file:
            json.dump({**note, "settings": self.settings}, file, indent=1)
        self._noted = time.monotonic()

    def __exit__(self, kind, error, traceback):
        try:
            if self._rows is not None:
                reasons = self._reasons.items()
                self._reasons = {i: why for i, why in reasons if i < self._done}
                self._note_down()
                note_progress(self, error)
        except OSError:
            # The first error says more than that of this attempt.
            if kind is None:
                raise
        finally:
            self._rows = None
            if not self.units:
                with contextlib.suppress(OSError):
                    os.remove(self.partial)
            self._lock.close()

    def finish(self) -> None:
        """Write the lists of images, and give the whole file its name.

        Of a file that is finished already, only lists that are lost are written.
        """
        if self.is_finished:
            self.load()  # whose rows are as many as the lists will name
            self._write_lists()
            return
        if not self.written:
            raise none_readable(self.skipped)
        self._note_down()
        self._rows = None
        with full_disk_explained(self.path, (self.written, self.units)):
            self._write_lists()
            with open(self.partial, "r+b") as file:
                write_header(file, (self.written, self.units))  # of one size for any N
                file.truncate(_file_size(self.written, self.units))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.partial, self.path)
        self.is_finished = True

    def _write_lists(self):
        """Name the image of each row, and what was left out, where lists do not."""
        if self.paths is None:
            return
        kept = [(path,) for i, path in enumerate(self.paths) if i not in self._reasons]
        name = f"{self.path}.csv"
        # Columns that were added beside the paths stay.
        if _cells(name, ("path",)) != kept:
            write_table(name, ("path",), kept)
        name, skipped = f"{self.path}.skipped.csv", list(map(tuple, self.skipped))
        if _cells(name, ("path", "reason")) != skipped:
            write_skipped(name, skipped)

    def load(self) -> np.ndarray:
        """The rows of the finished file, mapped read-only."""
        return load_embeddings(self.path, count=self.written)


def check_npy_path(path: str | os.PathLike) -> None:
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


def begun_settings(path: str | os.PathLike) -> dict:
    """The settings with which a file was begun that has rows; empty if none was."""
    path = os.fspath(path)
    if not (os.path.exists(path) or os.path.exists(f"{path}.partial")):
        return {}
    try:
        with open(f"{path}.json", encoding="utf-8") as file:
            return dict(json.load(file)["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _cells(path, columns):
    """The cells of a list that is there and whole; else None."""
    try:
        rows = [cells for _, cells in read_table(path, columns, verbatim=columns)]
    except (OSError, ValueError):
        return None
    return [tuple(cells[column] for column in columns) for cells in rows]


def _file_size(rows, units):
    header = io.BytesIO()
    write_header(header, (rows, units))
    return len(header.getvalue()) + 4 * rows * units


def _reserve(partial):
    """Take the blocks for a file that has its size; whether that is possible here."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return False
    try:
        with open(partial, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(partial))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True
