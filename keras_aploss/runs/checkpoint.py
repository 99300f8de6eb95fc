"""The checkpoint of a run: the files of its folder that change during training."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import shutil
import tempfile
import time

import keras
import numpy as np

from keras_aploss.callbacks import RetrievalEvaluation
from keras_aploss.embeddings import load_embeddings
from keras_aploss.evaluation import Snapshot, evaluate_embeddings
from keras_aploss.files import replaced, replaced_path
from keras_aploss.samplers import ClassBalancedSampler
from keras_aploss.tables import read_table, write_table
from keras_aploss.training import MultistageTrainer

logger = logging.getLogger(__name__)


class RunCheckpoint(keras.callbacks.Callback):
    """Write the run folder such that a run can be killed at any moment.

    After each epoch it writes `history.csv`, `best.keras` (by `val_map`) and
    `last.keras`, in this order and each in one step: `last.keras`, which holds the
    state of the optimizer, alone decides at which epoch a run is resumed. It also sets
    the epoch of the sampler.

    Args:
        folder: the run folder; made if it does not exist.
        sampler: the sampler that `fit` draws from.
        evaluation: the evaluation in the same list of callbacks, before this one. The
            embeddings of the untrained model are kept in `before.npy`, and handed to
            it when the run is resumed.
        writes: whether this process writes files; of several, one does.

    Attributes:
        rows: the history, a dictionary per finished epoch.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ClassBalancedSampler, RetrievalEvaluation
    >>> from keras_aploss.runs import RunCheckpoint
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
        *,
        writes: bool = True,
    ):
        super().__init__()
        self.writes = writes
        self.folder = pathlib.Path(folder)
        self.sampler = sampler
        self.evaluation = evaluation
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "last.keras").exists():
            self.evaluation.before = read_before(self.folder, self.evaluation)

    def on_epoch_begin(self, epoch, logs=None):
        self.sampler.epoch = epoch
        self._seed_layers(epoch)
        # On several hosts a variable is made by all of them together.
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.started = time.monotonic()
        if self.writes and not (self.folder / "last.keras").exists():
            with self._saved_elsewhere_if_it_fails():
                self._write_untrained()

    def _write_untrained(self):
        before = self.evaluation.before
        if before is not None:
            with replaced(self.folder / "before.npy", "wb") as file:
                np.save(file, before.embeddings)
        with replaced_path(self.folder / "best.keras") as new:
            encoder_of(self.model).save(new)
        with replaced_path(self.folder / "last.keras") as new:
            self.model.save(new)

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        best = max((row.get("val_map", -1.0) for row in self.rows), default=-1.0)
        self.rows.append(
            {
                "epoch": epoch + 1,
                "step": steps_of(self.model),
                **values,
                "seconds": round(time.monotonic() - self.started, 1),
            }
        )
        if self.writes:
            is_best = values.get("val_map", -1.0) > best
            written = (self.folder / "last.keras").stat()
            try:
                with self._saved_elsewhere_if_it_fails(is_best=is_best):
                    self._write_epoch(is_best)
            except KeyboardInterrupt:
                # Before the model was there: the epoch is lost, and does not count.
                if os.path.samestat(written, (self.folder / "last.keras").stat()):
                    self.rows.pop()
                raise

    def _write_epoch(self, is_best):
        self._write_history(self.folder / "history.csv")
        with replaced_path(self.folder / "last.keras") as new:
            self.model.save(new)
            if is_best:
                self._write_best(new)

    def _write_best(self, saved):
        """Write the encoder, of which `saved` is a file if it is the whole model."""
        encoder = encoder_of(self.model)
        with replaced_path(self.folder / "best.keras") as new:
            if encoder is self.model:
                shutil.copyfile(saved, new)
            else:
                encoder.save(new)

    @contextlib.contextmanager
    def _saved_elsewhere_if_it_fails(self, *, is_best=True):
        """Save the model elsewhere if it cannot be written into the run folder.

        Raises:
            OSError: with the cause, the place of the files and what to do.
        """
        kept = keras.distribution.distribution()
        # To save a model Keras makes variables, and on several hosts waits for all of
        # them to make the same: but one host writes.
        keras.distribution.set_distribution(None)
        try:
            yield
        # A file of HDF5 that cannot be closed raises RuntimeError.
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                raise  # JAX's own: a device or a host has failed, not the disk
            spare = pathlib.Path(tempfile.mkdtemp(prefix="keras_aploss_"))
            done = f"epoch {len(self.rows)}" if self.rows else "the untrained model"
            reason = _reason(error)
            try:
                self.model.save(spare / "last.keras")
                self._write_history(spare / "history.csv")
                if is_best:
                    encoder_of(self.model).save(spare / "best.keras")
            except (OSError, RuntimeError) as second:
                raise OSError(
                    f"Expected to write {done} into the run folder. Received: "
                    f"{reason}; and for {str(spare)!r}: {_reason(second)}. Make room "
                    "and resume the run: it goes on from the last epoch that was "
                    "written."
                ) from error
            raise OSError(
                f"Expected to write {done} into the run folder. Received: {reason}. It "
                f"is saved in {str(spare)!r} instead. Make room, move the files from "
                f"there to {str(self.folder)!r} and resume the run."
            ) from error
        finally:
            keras.distribution.set_distribution(kept)

    def _seed_layers(self, epoch):
        """Seed dropout and other random layers by (seed, epoch).

        Keras does not write the state of their generators into `.keras` files.
        """
        rng = np.random.default_rng([self.sampler.indices.seed, 3, epoch])
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign([rng.integers(2**31), 0])

    def _write_history(self, path):
        # An epoch that was not evaluated lacks some names.
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = [[row.get(name, "") for name in names] for row in self.rows]
        write_table(path, names, rows)


def read_history(folder: pathlib.Path, step: int | None) -> list[dict[str, float]]:
    """Read `history.csv` as `RunCheckpoint.rows`.

    Args:
        folder: the run folder.
        step: steps that the model in `last.keras` has made; later epochs, of which the
            history was written but not the model, are left out. None: all epochs.

    Raises:
        ValueError: if the file does not tell which epoch ended with this step.
    """
    path = folder / "history.csv"
    if step == 0 or (step is None and not path.exists()):
        return []
    try:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for _, row in read_table(path, ["epoch", "step"])
        ]
        rows = [{**row, "epoch": int(row["epoch"])} for row in rows]
        rows = [{**row, "step": int(row["step"])} for row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"Expected the history of the run. Received: {str(path)!r}, which cannot "
            f"be read: {error}. Restore it, or begin a new run."
        ) from error
    if step is None:
        return rows
    rows = [row for row in rows if row["step"] <= step]
    if not rows or rows[-1]["step"] != step:
        raise ValueError(
            f"Expected a history in which an epoch ends with step {step}, that of the "
            f"model in `last.keras`. Received: {str(path)!r}, which has none. Restore "
            "it, or begin a new run."
        )
    return rows


def read_before(
    folder: pathlib.Path, evaluation: RetrievalEvaluation
) -> Snapshot | None:
    """Read the evaluation before training; None if it was of other images.

    A damaged file is told and done without: the training does not depend on it.
    """
    path = folder / "before.npy"
    if not path.exists():
        return None
    try:
        embeddings = np.array(load_embeddings(path, check=True))
    except (OSError, ValueError) as error:
        logger.warning(
            "The embeddings of the untrained model cannot be read, and are left out of "
            "the report: %s",
            error,
        )
        return None
    if len(embeddings) != len(evaluation.labels):
        return None
    result = evaluate_embeddings(embeddings, evaluation.labels, evaluation.queries)
    return Snapshot(-1, embeddings, result)


def steps_of(model: keras.Model) -> int:
    """The number of steps that its optimizer has made."""
    # Not `int(variable)`: under MirroredStrategy it stands for one per device.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def encoder_of(model: keras.Model) -> keras.Model:
    """The model that embeds: `model` itself, or the encoder of its trainer."""
    return model.encoder if isinstance(model, MultistageTrainer) else model


def load_model(path: pathlib.Path, *, compile: bool = False) -> keras.Model:
    """Load a `.keras` file.

    Raises:
        ValueError: if there is no such file, or it cannot be read.
    """
    if not path.exists():
        raise ValueError(f"Expected a `.keras` file. Received: {str(path)!r}: no file.")
    try:
        return keras.saving.load_model(path, compile=compile)
    # A damaged archive raises almost anything: BadZipFile, KeyError, ValueError...
    except Exception as error:
        if "keras_hub" in str(error) and importlib.util.find_spec("keras_hub") is None:
            raise ValueError(
                f"Expected keras-hub, of which the model in {str(path)!r} is made. "
                'Received: it is not installed. pip install "keras_aploss[hub]"'
            ) from error
        raise ValueError(
            f"Expected a whole `.keras` file. Received: {str(path)!r}, which cannot "
            f"read: {' '.join(str(error).split()) or type(error).__name__}."
        ) from error


def _reason(error):
    """The message of the system about a file, without our remedy."""
    return error.__cause__ if isinstance(error.__cause__, OSError) else error
