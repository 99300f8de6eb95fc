"""A version of a SavedModel with model card, warm-up requests and Compose file.

What `keras-aploss train` leaves is what `keras-aploss export` would make of its run.

A version takes along what is known of its training: `training.json`, the settings and
the number of epochs, and `split.csv`, the images that were trained and tested on. By
these it can be evaluated on the test set of its run, wherever it is copied.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras

from keras_aploss.images import MAX_PIXELS
from keras_aploss.runs.card import model_card, portable
from keras_aploss.runs.settings import RunSettings
from keras_aploss.runs.split import SPLIT_FILE
from keras_aploss.serving import (
    export_saved_model,
    read_record,
    served_name,
    warmup_files,
    write_serving_files,
)

_RECORD = "training.json"


class TrainingRecord(NamedTuple):
    """What a version tells of its training.

    Attributes:
        settings: those of its run, with the image size of the export. Of paths they
            hold the last part only: a version travels, and folders tell of their
            owners.
        epochs: number of epochs that the model was trained for; None: not known.
        is_finished: whether its run had ended with its last epoch.
    """

    settings: RunSettings
    epochs: int | None
    is_finished: bool

    def to_json(self) -> str:
        """The contents of `training.json`."""
        values = self._replace(settings=dataclasses.asdict(self.settings))
        return json.dumps(values._asdict(), indent=2) + "\n"


def read_training_record(version: pathlib.Path) -> TrainingRecord | None:
    """Read what a version tells of its training; None if it tells nothing.

    Raises:
        ValueError: its `training.json` is damaged.
    """

    def parse(values):
        settings = RunSettings(**values["settings"])
        return TrainingRecord(settings, values["epochs"], values["is_finished"])

    return read_record(version / _RECORD, "the settings of a training", parse)


def export_version(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int,
    max_pixels: int = MAX_PIXELS,
    scales: Sequence[float] = (1.0,),
    whitening=None,
    settings: RunSettings | None = None,
    evaluation: Mapping | None = None,
    epochs: int | None = None,
    is_finished: bool = True,
    split_file: str | os.PathLike | None = None,
    warm_up: bool | None = None,
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Write the next version of a model, and the files that a server of it needs.

    Args:
        model: (B, H, W, 3) images from 0 to 255 in, unit-length embeddings out.
        path: the folder of all versions, whose name is that of the served model.
        image_size: side of the square to which files are resized.
        max_pixels: above which images are refused.
        scales: at which each image is embedded.
        whitening: None, or a pair `(mean, kernel)` of shapes (D,) and (D, U).
        settings: of the run, for the card; None for a model from elsewhere.
        evaluation: its figures, for the card; None if they are not known.
        epochs: number of epochs that the model was trained for; None: not known.
        is_finished: whether its run has ended with its last epoch.
        split_file: the list of the images of the run, which the version takes along;
            None if there is none.
        warm_up: whether to write warm-up requests; None: if the extra `serving`, which
            they need, is installed.

    Returns:
        The folder of the version, and the files that were written beside it.

    Raises:
        ImportError: `warm_up` is true without the extra `serving`.
        ValueError, RuntimeError: see `export_saved_model`.
    """
    name = served_name(path)
    units = model.outputs[0].shape[-1] if whitening is None else whitening[1].shape[-1]
    card = model_card(
        name,
        image_size=image_size,
        units=units,
        max_pixels=max_pixels,
        scales=scales,
        whitened=whitening is not None,
        settings=settings,
        evaluation=evaluation,
        epochs=epochs,
        is_finished=is_finished,
    )
    files = {"README.md": card.encode()}
    if settings is not None:
        own = dataclasses.replace(portable(settings), image_size=image_size)
        files[_RECORD] = TrainingRecord(own, epochs, is_finished).to_json().encode()
    if split_file is not None:
        files[SPLIT_FILE] = pathlib.Path(split_file).read_bytes()
    if warm_up is None:
        warm_up = importlib.util.find_spec("tensorflow_serving") is not None
    if warm_up:
        files |= warmup_files(image_size, name)
    version = export_saved_model(
        model, path, image_size=image_size, max_pixels=max_pixels, scales=scales,
        whitening=whitening, extra_files=files,
    )  # fmt: skip
    return version, write_serving_files(path)
