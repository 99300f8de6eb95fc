"""Which model a command is given, and with which settings it was trained."""

import dataclasses
import pathlib

import keras

from keras_aploss.checkpoints import load_ap_gem
from keras_aploss.runs import RunSettings
from keras_aploss.runs.checkpoint import encoder_of, load_model

PUBLISHED = (".pt", ".pth")  # checkpoints of PyTorch


def load_encoder(
    path: pathlib.Path, image_size: int | None = None, *, needs_size: bool = True
) -> tuple[keras.Model, RunSettings]:
    """The model of a run folder or a file, and the settings of its run.

    With `needs_size` a file outside a run folder must come with an `image_size`.
    """
    path, settings = _find_model(path, image_size, needs_size)
    if path.suffix in PUBLISHED:
        return load_ap_gem(path), settings
    return encoder_of(load_model(path)), settings


def _find_model(path, image_size, needs_size):
    """The file of a run folder or of a path, and the settings of its run."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        finished = path / "model.keras"
        path = finished if finished.exists() else path / "last.keras"
    if path.suffix not in (".keras", *PUBLISHED) or not path.exists():
        raise ValueError(
            "Expected a run folder that holds `model.keras`, a `.keras` file, or a "
            f"published checkpoint (`.pt`). Received: {str(path)!r}."
        )
    is_run = path.suffix == ".keras" and (folder / "settings.json").exists()
    if is_run:
        settings = RunSettings.load(folder / "settings.json")
    elif image_size or not needs_size:
        settings = RunSettings(name=path.stem)
    else:
        raise ValueError(
            f"Expected `--image-size`: {str(path)!r} lies in no run folder that tells "
            "with which size it was trained."
        )
    if image_size is not None:
        settings = dataclasses.replace(settings, image_size=image_size)
    return path, settings
