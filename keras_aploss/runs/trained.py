"""Trained models, opened from a run folder or from a file.

Where a run folder holds settings and figures, a file holds weights only: both are
opened by `open_model`, which also returns what is known about the training.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import keras

from keras_aploss.checkpoints import load_ap_gem
from keras_aploss.embeddings import check_image_size, input_size
from keras_aploss.runs.card import read_evaluation
from keras_aploss.runs.checkpoint import (
    encoder_of,
    load_model,
    read_history,
    steps_of,
)
from keras_aploss.runs.precision import use_precision
from keras_aploss.runs.settings import RunSettings
from keras_aploss.runs.split import SPLIT_FILE
from keras_aploss.runs.version import read_training_record
from keras_aploss.serving import read_image_size

logger = logging.getLogger(__name__)

PUBLISHED = (".pt", ".pth")  # checkpoints of PyTorch


class TrainedModel(NamedTuple):
    """A model and what is known about its training.

    Attributes:
        encoder: (B, H, W, 3) images from 0 to 255 in, unit-length embeddings out.
        settings: those of its run, with the image size that was asked for; for a file
            outside a run folder the defaults.
        run: the settings of its run as they were; None for a file outside a run folder.
        evaluation: the metrics in `evaluation/evaluation.json` of its run; None if
            there are none, or if they are of another epoch.
        epochs: number of epochs that the model was trained for; None: not known.
        is_finished: whether its run has ended with its last epoch, as far as is known.
        split_file: the list of the images of its run, see `split`; None: there is none.
        is_exported: whether it is a version of a SavedModel.

    Example:
    >>> from keras_aploss import RunSettings, retrieval_model
    >>> from keras_aploss.runs import TrainedModel
    >>> model = TrainedModel(retrieval_model(units=8), RunSettings(), None, None)
    >>> model.encoder.output_shape
    (None, 8)
    """

    encoder: keras.Model
    settings: RunSettings
    run: RunSettings | None
    evaluation: Mapping | None
    epochs: int | None = None
    is_finished: bool = True
    split_file: pathlib.Path | None = None
    is_exported: bool = False

    @property
    def state(self) -> str:
        """How far the training went: "2 of 5 epochs"; empty if it is not known."""
        if self.run is None or self.epochs is None:
            return ""
        return f"{self.epochs} of {self.run.epochs} epochs"


def open_model(
    path: str | os.PathLike, image_size: int | None = None, *, needs_size: bool = True
) -> TrainedModel:
    """Open a trained model.

    Args:
        path: a run folder, a `.keras` file, a version that `export_saved_model` wrote,
            or a published PyTorch checkpoint (`.pt`, `.pth`).
        image_size: side of the square images; None: that of the run or of the export,
            or the one for which the model is built.
        needs_size: whether another file outside a run folder must come with one.

    Raises:
        ValueError: if there is no such model, it cannot be read, its image size is
            needed and not known, or it is built for another one.

    Example:
    >>> from keras_aploss.runs import open_model
    >>> open_model("nowhere.keras")
    Traceback (most recent call last):
    ...
    ValueError: Expected a run folder that holds `model.keras`, a `.keras` file, a
    version of a SavedModel (a folder with `saved_model.pb`), or a published checkpoint
    (`.pt`). Received: 'nowhere.keras'.
    """
    path = _find_file(pathlib.Path(path))
    is_exported = path.is_dir()
    record = read_training_record(path) if is_exported else None
    run = record.settings if record else _run_settings(path)
    encoder, epochs, is_finished = _load(path, run)
    own_size = input_size(encoder)[0]  # of a model that takes no other
    if run is None and image_size is None:
        image_size = own_size or (read_image_size(path) if is_exported else None)
        if image_size is None and needs_size:
            raise ValueError(
                f"Expected `--image-size`: {str(path)!r} lies in no run folder that "
                "tells with which size it was trained."
            )
    if image_size is not None:
        check_image_size(encoder, image_size)
    name = path.parent.name if is_exported else path.stem
    settings = RunSettings(name=name) if run is None else run
    if is_exported:
        settings = dataclasses.replace(settings, name=name)
    if image_size is not None:
        settings = dataclasses.replace(settings, image_size=image_size)
    # The figures of a run are those of `model.keras`, not of its other files.
    is_measured = run is not None and path.name == "model.keras"
    evaluation = read_evaluation(path.parent) if is_measured else None
    if record:
        epochs, is_finished = record.epochs, record.is_finished
    split_file = (path if is_exported else path.parent) / SPLIT_FILE
    has_split = run is not None and split_file.exists()
    trained = TrainedModel(
        encoder, settings, run, evaluation, epochs, is_finished,
        split_file if has_split else None, is_exported,
    )  # fmt: skip
    if not is_finished:
        logger.warning(
            "The run of %s is not finished: the model is that after %s.",
            path,
            trained.state or "an unknown number of epochs",
        )
    return trained


def _find_file(path):
    """The file of a run folder, or the path itself."""
    is_exported = (path / "saved_model.pb").exists()
    if path.is_dir() and not is_exported:
        finished = path / "model.keras"
        path = finished if finished.exists() else path / "last.keras"
    is_file = path.suffix in (".keras", *PUBLISHED) and path.exists()
    if not is_file and not is_exported:
        raise ValueError(
            "Expected a run folder that holds `model.keras`, a `.keras` file, a version"
            " of a SavedModel (a folder with `saved_model.pb`), or a published "
            f"checkpoint (`.pt`). Received: {str(path)!r}."
        )
    return path


def _run_settings(path):
    beside = path.parent / "settings.json"
    is_of_run = path.suffix == ".keras" and beside.exists()
    return RunSettings.load(beside) if is_of_run else None


def _load(path, run):
    """The model of a file, the number of its epochs, and whether its run has ended."""
    if path.suffix in PUBLISHED:
        return load_ap_gem(path), None, True
    if path.is_dir():
        return _load_saved_model(path), None, True
    if run is not None and path.name == "model.keras":
        return encoder_of(load_model(path)), run.epochs, True
    if run is not None and path.name in ("last.keras", "best.keras"):
        return _load_of_epoch(path, run)
    return encoder_of(load_model(path)), None, True


def _load_of_epoch(path, run):
    """A file that is written during the training."""
    step, is_last = None, path.name == "last.keras"
    # With its optimizer, which counts the steps: the history can be an epoch ahead.
    with use_precision(run.precision):
        model = load_model(path, compile=is_last)
    if is_last:
        step = steps_of(model)
    try:
        rows = read_history(path.parent, step)
    except ValueError as error:
        logger.warning("%s", error)
        return encoder_of(model), None, (path.parent / "model.keras").exists()
    epochs, is_finished = len(rows), len(rows) >= run.epochs
    if not is_last:
        best = max(rows, key=lambda row: row.get("val_map", -1.0), default={"epoch": 0})
        epochs = best["epoch"]
    return encoder_of(model), epochs, is_finished


def _load_saved_model(path):
    """A version of a SavedModel as a model that embeds and cannot be trained."""
    try:
        layer = keras.layers.TFSMLayer(path, call_endpoint="images")
        images = keras.Input((None, None, 3))
        return keras.Model(images, layer(images)["embedding"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            "Expected a SavedModel that `keras-aploss export` wrote, with a signature "
            f"`images` that gives `embedding`. Received: {str(path)!r}: {error}"
        ) from error
