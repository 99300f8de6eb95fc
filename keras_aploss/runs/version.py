"""A version of a SavedModel with model card, warm-up requests and Compose file.

What `keras-aploss train` leaves is what `keras-aploss export` would make of its run.
"""

import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence

import keras

from keras_aploss.images import MAX_PIXELS
from keras_aploss.runs.card import model_card
from keras_aploss.runs.settings import RunSettings
from keras_aploss.serving import (
    export_saved_model,
    served_name,
    warmup_files,
    write_serving_files,
)


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
        warm_up: whether to write warm-up requests; None: if the extra `serving`, which
            they need, is installed.

    Returns:
        The folder of the version, and the files that were written beside it.

    Raises:
        ImportError: `warm_up` is true without the extra `serving`.
        ValueError, RuntimeError: see `export_saved_model`.
    """
    path = pathlib.Path(path)
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
    )
    files = {"README.md": card.encode()}
    if warm_up is None:
        warm_up = importlib.util.find_spec("tensorflow_serving") is not None
    if warm_up:
        files |= warmup_files(image_size, name)
    version = export_saved_model(
        model,
        path,
        image_size=image_size,
        max_pixels=max_pixels,
        scales=scales,
        whitening=whitening,
        extra_files=files,
    )
    return version, write_serving_files(path)
