"""The folder that workers fill with shards, and that a rerun completes after a kill.

    _manifest.json     the number of the shards, and the settings they depend on
    _images.parquet    the images, a row group for each shard
    part-000000.parquet, ...
    _skipped.csv       the files that could not be read, when all is done
    _lock              held by the process that directs the work

A shard that is there is done; one that is missing is still to be written. So nothing is
noted while the work goes on, and workers on other machines need only this folder.

Dimension key: N images, D units.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.embeddings.fingerprint import digest_of
from keras_aploss.embeddings.resumable import (
    EmbeddedBatch,
    note_progress,
    require_room,
    require_same_settings,
)
from keras_aploss.embeddings.shards import (
    MANIFEST,
    EmbeddingShard,
    is_shard_folder,
    read_about,
    read_manifest,
    shard_path,
    write_shard,
)
from keras_aploss.files import locked, replaced, replaced_path
from keras_aploss.images import SkippedImage, hash_files, none_readable
from keras_aploss.tables import import_parquet, write_skipped

_IMAGES, _SKIPPED, _LOCK = "_images.parquet", "_skipped.csv", "_lock"


class ShardWriter(NamedTuple):
    """Writes single shards of a folder, in any process that sees it.

    Attributes:
        folder: the path of the folder.
        digest: of the settings; each shard has it in its footer.
        units: D.
    """

    folder: str
    digest: str
    units: int

    def path(self, number: int) -> str:
        """The file of a shard."""
        return shard_path(self.folder, number)

    def find(self, number: int) -> dict | None:
        """The footer of a shard; None if it is missing or damaged.

        Raises:
            ValueError: it is a shard of other settings.
        """
        about = read_about(self.path(number))
        if about and about.get("settings") != self.digest:
            raise ValueError(
                f"Expected shards of one extraction in {self.folder!r}. Received: "
                f"{self.path(number)!r}, which is of another. Delete it."
            )
        return about

    def images(self, number: int) -> tuple[list[str], list[str]]:
        """The paths and labels of the images of a shard."""
        _, parquet = import_parquet()
        with parquet.ParquetFile(os.path.join(self.folder, _IMAGES)) as file:
            table = file.read_row_group(number)
        return table["path"].to_pylist(), table["label"].to_pylist()

    def count_images(self) -> tuple[int, int]:
        """The shards and the images of the list that `images` reads."""
        _, parquet = import_parquet()
        with parquet.ParquetFile(os.path.join(self.folder, _IMAGES)) as file:
            return file.num_row_groups, file.metadata.num_rows

    def write(
        self, number: int, batches: Iterable[EmbeddedBatch], workers: int = 1
    ) -> tuple[int, list[SkippedImage]]:
        """Write a shard; the number of its embeddings, and the files left out.

        Args:
            number: of the shard.
            batches: the embeddings of its images.
            workers: threads that hash the files.
        """
        paths, labels = self.images(number)
        vectors, reasons, done = [np.zeros((0, self.units), np.float32)], {}, 0
        for batch in batches:
            vectors.append(np.reshape(batch.vectors, (-1, self.units)))
            reasons |= {done + i: why for i, why in batch.skipped.items()}
            done += batch.size
        ids = hash_files([p for i, p in enumerate(paths) if i not in reasons], workers)
        rows, skipped, vectors = [], [], iter(np.concatenate(vectors))
        for i, (path, label) in enumerate(zip(paths, labels, strict=True)):
            reason = reasons.get(i)
            if reason is None:
                id_, vector = ids[path], next(vectors)
                if not isinstance(id_, OSError):
                    rows.append((id_, vector, path, label))
                    continue
                reason = f"it cannot be opened: {id_.strerror}"  # deleted just now
            skipped.append(SkippedImage(path, reason))
        columns = zip(*rows, strict=True) if rows else [[]] * 4
        shard = EmbeddingShard(*map(list, columns))
        vectors = np.reshape(shard.vectors, (-1, self.units))
        about = {"settings": self.digest, "shard": number, "skipped": skipped}
        write_shard(self.path(number), shard._replace(vectors=vectors), about)
        return len(rows), skipped


class ShardFolder:
    """A folder of shards while they are made: `with ShardFolder(...) as folder`.

    Args:
        path: the folder, made if it does not exist.
        settings: what the embeddings depend on, as JSON holds it.
        paths: N images.
        labels: the label of each.
        units: D.
        shard_size: images per shard.
        left_out: files to list as skipped that are none of the images.

    Attributes:
        shards: the number of shards.
        missing_shards: the numbers of those that are missing, as `look` has found.
        writer: the `ShardWriter` for this or other processes.
        count, missing, written, skipped: see `resumable`.

    Raises:
        ValueError: if the folder holds something else, or shards of other images,
            another model or other settings.
        OSError: if another process writes there, or the disk has no room.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict,
        paths: Sequence[str],
        labels: Sequence[str],
        *,
        units: int,
        shard_size: int,
        left_out: Sequence[SkippedImage] = (),
    ):
        self.path = os.path.abspath(path)
        described = {"labels": digest_of(labels), "shard_size": shard_size}
        self.settings = {**settings, **described}
        self.writer = ShardWriter(self.path, digest_of(self.settings), units)
        self.count, self.shards = len(paths), -(-len(paths) // shard_size)
        self.shard_size, self.left_out = shard_size, list(left_out)
        self.missing_shards, self.written, self._unreadable = [], 0, []
        self._images = {"path": list(paths), "label": list(labels)}
        self._lock = None

    @property
    def missing(self) -> list[range]:
        size = self.shard_size
        starts = [size * number for number in self.missing_shards]
        return [range(start, min(start + size, self.count)) for start in starts]

    @property
    def skipped(self) -> list[SkippedImage]:
        return self._unreadable + self.left_out

    def __enter__(self):
        import_parquet()
        os.makedirs(self.path, exist_ok=True)
        if not is_shard_folder(self.path):
            self._require_free()
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(os.path.join(self.path, _LOCK), self.path))
            if is_shard_folder(self.path):
                there = read_manifest(self.path)["settings"]
                require_same_settings(self.path, there, self.settings)
            else:
                self._begin()
            self.look()
            if self.missing_shards and not self._has_images():
                self._write_images()
            left = 4 * self.writer.units * sum(map(len, self.missing))
            require_room(self.path, self.path, left)
            self._lock = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        note_progress(self, error)
        self._lock.close()

    def look(self) -> None:
        """Find out which shards are missing, and count what is in the others."""
        self.missing_shards, self.written, self._unreadable = [], 0, []
        for number in range(self.shards):
            about = self.writer.find(number)
            if about is None:
                self.missing_shards.append(number)  # a damaged one is written again
                continue
            self.written += about["rows"]
            self._unreadable += [SkippedImage(*row) for row in about["skipped"]]

    def write(self, part: range, batches: Iterable[EmbeddedBatch]) -> None:
        """Write the shard of the images of `part`."""
        rows, skipped = self.writer.write(part.start // self.shard_size, batches)
        self.written += rows
        self._unreadable += skipped

    def finish(self) -> None:
        """List what was left out, and remove what only the work needed."""
        write_skipped(os.path.join(self.path, _SKIPPED), self.skipped)
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name.startswith((".part-", "._")):
                with contextlib.suppress(OSError):
                    os.remove(path)
            elif name.startswith(".model-"):
                shutil.rmtree(path, ignore_errors=True)
        if not self.written:
            raise none_readable(self.skipped)

    def _require_free(self):
        # Of a first try that was killed, there are names of ours.
        foreign = [n for n in os.listdir(self.path) if not n.startswith(("_", "."))]
        if foreign:
            raise ValueError(
                "Expected a new or empty folder, or one of shards. Received: "
                f"{self.path!r}, which holds {foreign[0]!r} and no {MANIFEST!r}. "
                "Choose another folder."
            )

    def _begin(self):
        self._write_images()
        manifest = {"shards": self.shards, "settings": self.settings}
        with replaced(os.path.join(self.path, MANIFEST)) as file:
            json.dump(manifest, file, indent=1)

    def _has_images(self):
        """Whether the list of the images, which the workers read, is whole."""
        try:
            return self.writer.count_images() == (self.shards, self.count)
        except (OSError, ValueError):  # deleted, or emptied
            return False

    def _write_images(self):
        arrow, parquet = import_parquet()
        columns = {
            name: arrow.array(texts, arrow.string())
            for name, texts in self._images.items()
        }
        with replaced_path(os.path.join(self.path, _IMAGES)) as unfinished:
            parquet.write_table(
                arrow.table(columns), unfinished, row_group_size=self.shard_size
            )
