"""Which model a command is given, and with which settings it was trained."""

import dataclasses
import pathlib

import keras

from keras_aploss.checkpoints import load_ap_gem
from keras_aploss.runs import RunSettings, encoder_of, load_model

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
    if path.is_dir():
        return _load_saved_model(path), settings
    return encoder_of(load_model(path)), settings


def _load_saved_model(path):
    """What `export_saved_model` wrote, as a model that embeds and cannot be trained."""
    try:
        layer = keras.layers.TFSMLayer(path, call_endpoint="images")
        images = keras.Input((None, None, 3))
        return keras.Model(images, layer(images)["embedding"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            "Expected a SavedModel that `keras-aploss export` wrote, with a signature "
            f"`images` that gives `embedding`. Received: {str(path)!r}: {error}"
        ) from error


def _find_model(path, image_size, needs_size):
    """The file of a run folder or of a path, and the settings of its run."""
    folder = path if path.is_dir() else path.parent
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
    is_run = path.suffix == ".keras" and (folder / "settings.json").exists()
    if is_run:
        settings = RunSettings.load(folder / "settings.json")
    elif image_size or not needs_size:
        settings = RunSettings(name=path.parent.name if is_exported else path.stem)
    else:
        raise ValueError(
            f"Expected `--image-size`: {str(path)!r} lies in no run folder that tells "
            "with which size it was trained."
        )
    if image_size is not None:
        settings = dataclasses.replace(settings, image_size=image_size)
    return path, settings


def training_of(path: pathlib.Path) -> RunSettings | None:
    """The settings of the run that a model comes from, if they are beside it."""
    found, _ = _find_model(path, None, needs_size=False)
    beside = found.parent / "settings.json"
    return (
        RunSettings.load(beside)
        if found.suffix == ".keras" and beside.exists()
        else None
    )
