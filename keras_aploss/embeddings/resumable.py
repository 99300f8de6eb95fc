"""Writing the embeddings of many images: hours of work that may be interrupted.

Two producers compute embeddings, a model (`embedded_batches`, in this process or in
workers) and a model server (`serving.extract_by_server`). Two formats keep them, a
`.npy` file (`NpyFile`) and a folder of Parquet shards (`ShardFolder`). Here is what
joins any producer to any format: the batch that is handed over, and the loop.

A format is a context manager, which one process enters at a time, with

* `missing`: the parts of the images that are still to be embedded, as ranges;
* `write(part, batches)`: write the embeddings of a part;
* `finish()`: complete the output, when nothing is missing;
* `count`, `written`, `skipped`: the number of images, the number of embeddings on the
  disk, and the files that were left out.

Beside the embeddings it keeps the settings that they depend on. An output that was
begun with others is refused, and the difference is named.

Dimension key: B images per batch, B' of them readable, D units.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np


class EmbeddedBatch(NamedTuple):
    """The embeddings of B consecutive images, of which some could not be read.

    Attributes:
        vectors: `(B', D)` float32, of those that could be read, in their order.
        skipped: the position in the batch of each of the others, and the reason.

    Example:
    >>> from keras_aploss.embeddings import EmbeddedBatch
    >>> EmbeddedBatch([[0.6, 0.8], [1.0, 0.0]], {1: "the file is empty"}).size
    3
    """

    vectors: np.ndarray
    skipped: Mapping[int, str] = MappingProxyType({})

    @property
    def size(self) -> int:
        """B: the images that were taken, embedded or not."""
        return len(self.vectors) + len(self.skipped)


def write_embeddings(
    output,
    produce: Callable[[range], Iterator[EmbeddedBatch]],
    *,
    verbose: int = 0,
) -> None:
    """Embed the images that an output still lacks, and complete it.

    Args:
        output: a `NpyFile` or a `ShardFolder`.
        produce: yields the batches of a part of the images, in order.
        verbose: 1 shows a progress bar, with the images per second.

    Raises:
        ValueError: the output was begun with other settings, or no image is readable.
        OSError: the disk is full, or another process writes to the output.

    Any error, and `KeyboardInterrupt`, carries a note of how much is written.
    """
    with output:
        progress = Progress(sum(map(len, output.missing)), verbose)
        for part in output.missing:
            with contextlib.closing(produce(part)) as batches:
                output.write(part, progress.follow(batches))
        output.finish()


def note_progress(output, error: BaseException | None) -> None:
    """Note on an error that ends the work how much is written, where something is."""
    if error is not None and output.written:
        note = (
            f"{output.written:,} of {output.count:,} embeddings are written. Rerun the "
            "command to resume."
        )
        # As `error.add_note`, which Python 3.10 does not have.
        error.__notes__ = [*getattr(error, "__notes__", []), note]


class Progress:
    """A bar with the rate of this call, which leaves out what was done before it."""

    def __init__(self, total: int, verbose: int):
        self.bar = keras.utils.Progbar(
            total, verbose=verbose, stateful_metrics=["images/s"], unit_name="image"
        )
        self.started, self.done = time.monotonic(), 0

    def follow(self, batches: Iterable[EmbeddedBatch]) -> Iterator[EmbeddedBatch]:
        """Yield batches, and count the images of each when it has been written."""
        for batch in batches:
            yield batch
            self.add(batch.size)

    def add(self, images: int) -> None:
        """Count images that are done."""
        self.done += images
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.done, [("images/s", rate)])


def require_same_settings(path: str, there: dict, here: dict) -> None:
    """Refuse to resume with other settings than those of the output, and name them."""
    names = dict.fromkeys([*here, *there])
    different = [name for name in names if here.get(name) != there.get(name)]
    if different:
        before = ", ".join(f"{name}={there.get(name)!r}" for name in different)
        now = ", ".join(f"{name}={here.get(name)!r}" for name in different)
        raise ValueError(
            f"Expected the settings with which {path!r} was begun: {before}. "
            f"Received: {now}. Resume with those, choose another path, or delete it "
            "and begin again."
        )


def require_room(path: str, folder: str, needed: int) -> None:
    """Refuse to begin what the disk of a folder cannot hold: `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"Expected room for {needed / 2**20:,.1f} MiB, what is still to be written "
            f"of {path!r}. Received: {free / 2**20:,.1f} MiB. Make room, or choose "
            "another place."
        )
