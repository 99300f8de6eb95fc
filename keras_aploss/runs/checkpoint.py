"""The files of a run folder that change while the model trains."""

import csv
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_aploss.callbacks import RetrievalEvaluation
from keras_aploss.samplers import ClassBalancedSampler


class RunCheckpoint(keras.callbacks.Callback):
    """Keeps the run folder such that a run can be killed at any moment.

    After each epoch it writes `history.csv`, `best.keras` (by `val_map`) and
    `last.keras`, in this order and each in one step: `last.keras`, which holds the
    state of the optimizer, alone decides from which epoch a run goes on. It also tells
    the sampler the number of the epoch.

    Args:
        folder: the run folder.
        sampler: the sampler that `fit` draws from.
        evaluation: the evaluation in the same list of callbacks, before this one; the
            embeddings of the untrained model are kept in `before.npy`.

    Attributes:
        rows: the history, a dictionary per finished epoch.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ClassBalancedSampler, RetrievalEvaluation
    >>> images, labels = np.zeros((4, 8, 8, 3), "uint8"), np.array([0, 0, 1, 1])
    >>> sampler = ClassBalancedSampler(
    ...     images, labels, classes_per_batch=2, images_per_class=2
    ... )
    >>> evaluation = RetrievalEvaluation(images, labels)
    >>> callbacks = [evaluation, RunCheckpoint("runs/one", sampler, evaluation)]
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        sampler: ClassBalancedSampler,
        evaluation: RetrievalEvaluation,
    ):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.sampler = sampler
        self.evaluation = evaluation
        self.rows: list[dict[str, float]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.sampler.epoch = epoch
        self.started = time.monotonic()
        before = self.evaluation.before
        if before is not None and not self.rows:
            with open(self.folder / "before.npy", "wb") as file:
                np.save(file, before.embeddings)
        if not (self.folder / "last.keras").exists():
            replace(self.folder / "best.keras", self.model.save)
            replace(self.folder / "last.keras", self.model.save)

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        seconds = round(time.monotonic() - self.started, 1)
        best = max((row["val_map"] for row in self.rows), default=-1.0)
        self.rows.append({"epoch": epoch + 1, **values, "seconds": seconds})
        replace(self.folder / "history.csv", self._write_history)
        replace(self.folder / "new.keras", self.model.save)
        if values["val_map"] > best:
            replace(
                self.folder / "best.keras",
                lambda path: shutil.copyfile(self.folder / "new.keras", path),
            )
        os.replace(self.folder / "new.keras", self.folder / "last.keras")

    def _write_history(self, path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def read_history(folder: pathlib.Path) -> list[dict[str, float]]:
    """Read `history.csv` as `RunCheckpoint.rows`; nothing if there is none."""
    path = folder / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def replace(path: pathlib.Path, write: Callable) -> None:
    """Write beside a file, then put it in its place in one step."""
    unfinished = path.with_name("unfinished_" + path.name)
    write(unfinished)
    os.replace(unfinished, path)
