"""A trained model as the backbone of a new run, whose training goes on from it."""

import pathlib

import keras

from keras_aploss.runs.settings import RunSettings
from keras_aploss.runs.trained import PUBLISHED, open_model

_FILES = ("model.keras", "last.keras", "settings.json", "saved_model.pb")


def is_trained_model(backbone: str) -> bool:
    """Whether the name of a backbone is the path of a model: a run folder, or a file.

    >>> is_trained_model("ResNet50"), is_trained_model("runs/photos/last.keras")
    (False, True)
    """
    path = pathlib.Path(backbone)
    is_file = path.suffix in (".keras", *PUBLISHED)
    return is_file or any((path / name).exists() for name in _FILES)


def trained_image_size(backbone: str) -> int:
    """The image size of the run of a trained model; 0 if it is not known."""
    path = pathlib.Path(backbone)
    folder = path if path.is_dir() else path.parent
    file = folder / "settings.json"
    return RunSettings.load(file).image_size if file.exists() else 0


def open_backbone(settings: RunSettings) -> keras.Model:
    """Open the trained model of the settings.

    Raises:
        ValueError: there is none, it cannot be trained, or the settings ask for weights
            or a precision that are not its own.
    """
    name = settings.backbone
    if settings.weights:
        raise ValueError(
            "Expected a trained model without `weights`, as it has its own. Received: "
            f"weights={settings.weights!r} for backbone={name!r}."
        )
    if (pathlib.Path(name) / "saved_model.pb").exists():
        raise ValueError(
            "Expected a model that can be trained. Received: "
            f"backbone={name!r}, an exported model, which only embeds. Give the run "
            "folder that it was exported from, or its `model.keras`."
        )
    model = open_model(name, needs_size=False).encoder
    found = {
        layer.dtype_policy.name
        for layer in model.layers
        if layer.name in ("pooling", "projection")
    }
    if found and found != {settings.precision}:
        raise ValueError(
            f"Expected precision={min(found)!r}, in which the layers of {name!r} "
            f"compute. Received: precision={settings.precision!r}."
        )
    return model
