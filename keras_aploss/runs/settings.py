"""The settings of a training run: one list for the command line, files and Python.

Each field is an option of `keras-aploss train` (`learning_rate` is `--learning-rate`),
a line of the run folder's `settings.json`, and an argument of `RunSettings`.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any


def _field(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a training run.

    The defaults are those of the main job: a small network, trained from random
    weights on the embedded data set in about three minutes on two cores.

    Raises:
        ValueError: from `load`, if the file is not JSON, or names a setting that does
            not exist or has a value of the wrong type.

    Example:
    >>> from keras_aploss import RunSettings
    >>> RunSettings(epochs=3).learning_rate == RunSettings().learning_rate
    True
    """

    data: str = _field(
        "landmarks",
        "What to train on: 'landmarks' (the embedded set), a folder with one sub-folder"
        " of images per class (or 'train' and 'test' folders of such), or a CSV file"
        " with the columns path, label and, if wanted, split.",
    )
    name: str = _field("", "Name of the exported model; by default that of the data.")
    image_size: int = _field(64, "Side of the square images that the model sees.")
    test_fraction: float = _field(
        0.25, "Share of the classes kept for the test, if the data name no test set."
    )
    num_landmarks: int = _field(200, "Embedded set: number of training landmarks.")
    num_test_landmarks: int = _field(50, "Embedded set: number of test landmarks.")
    views_per_landmark: int = _field(10, "Embedded set: images of each landmark.")
    backbone: str = _field(
        "small_resnet", "'small_resnet' or a class of keras.applications ('ResNet50')."
    )
    weights: str = _field(
        "", "Weights of the backbone: '' (random), 'imagenet' or a file."
    )
    units: int = _field(128, "Size of the embedding.")
    pooling: str = _field("gem", "'gem', 'max' or 'average'.")
    whitening: bool = _field(
        False, "Learn a PCA whitening on the training images after training."
    )
    whitening_power: float = _field(0.5, "Power of the variances that it divides by.")
    classes_per_batch: int = _field(16, "Classes in a batch.")
    images_per_class: int = _field(8, "Images of each class in a batch.")
    epochs: int = _field(12, "Number of epochs.")
    steps_per_epoch: int = _field(
        0, "Batches per epoch; 0: as many as hold all training images once."
    )
    learning_rate: float = _field(
        2e-3, "Highest learning rate of Adam; it warms up, then falls along a cosine."
    )
    weight_decay: float = _field(1e-4, "Decoupled weight decay (AdamW).")
    num_bins: int = _field(20, "Bins of the AP loss.")
    exclude_self: bool = _field(
        False, "Leave a query out of its own ranked list in the AP loss."
    )
    augment: bool = _field(True, "Augment the training images at random.")
    crop_scale: float = _field(0.6, "Augmentation: least area of the random crop.")
    rotation: float = _field(5.0, "Augmentation: largest rotation, in degrees.")
    flip: bool = _field(False, "Augmentation: mirror every other image.")
    colour_jitter: float = _field(
        0.2, "Augmentation: range of brightness, contrast and saturation."
    )
    seed: int = _field(0, "Seed of everything random.")
    workers: int = _field(1, "Threads that prepare batches.")
    cache_gib: float = _field(
        4.0, "Decode files once and keep them in memory if they need less than this."
    )

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings to a JSON file."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "RunSettings":
        """Read settings from a JSON file; those it does not name keep their default."""
        problem = f"Expected a JSON file of settings. Received: {os.fspath(path)!r},"
        try:
            values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{problem} which cannot be read: {error}") from error
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - set(fields):
            unknown = sorted(set(values) - set(fields)) if values else values
            raise ValueError(
                f"{problem} with unknown settings {unknown}. `keras-aploss train "
                "--help` lists them all."
            )
        for name, value in values.items():
            kind = type(fields[name].default)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not kind and not (kind is float and whole):
                raise ValueError(
                    f"{problem} where {name}={value!r}. It must be of type "
                    f"{kind.__name__}."
                )
        return cls(**values)
