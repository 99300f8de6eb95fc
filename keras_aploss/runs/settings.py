"""The settings of a training run: one list for the command line, files and Python.

Each field is an option of `keras-aploss train` (`learning_rate` is `--learning-rate`),
a line of the run folder's `settings.json`, and an argument of `RunSettings`.
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

AT_LEAST_1 = "at least 1", lambda value: value >= 1
AT_LEAST_2 = "at least 2", lambda value: value >= 2
NOT_NEGATIVE = "not negative", lambda value: value >= 0
ABOVE_0 = "above 0", lambda value: value > 0
FRACTION = "above 0 and below 1", lambda value: 0 < value < 1
SHARE = "above 0 and at most 1", lambda value: 0 < value <= 1
POWER = "between 0 and 1", lambda value: 0 <= value <= 1
NOT_EMPTY = "not empty", bool
PRECISION = (
    "'float32', 'mixed_float16' or 'mixed_bfloat16'",
    ("float32", "mixed_float16", "mixed_bfloat16").__contains__,
)
STRATEGY = (
    "'one_device', 'mirrored' or 'data_parallel'",
    ("one_device", "mirrored", "data_parallel").__contains__,
)
POOLING = "'gem', 'max' or 'average'", ("gem", "max", "average").__contains__


def _field(default: Any, help: str, allowed: tuple | None = None) -> Any:
    metadata = {"help": help, "allowed": allowed}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a training run.

    The defaults are those of the main job: a small network, trained from random
    weights on the embedded data set in about three minutes on two cores.

    Raises:
        ValueError: if a value is of the wrong type or out of range; from `load` also if
            the file is not JSON, or names a setting that does not exist.

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
        NOT_EMPTY,
    )
    name: str = _field("", "Name of the exported model; by default that of the data.")
    image_size: int = _field(
        64, "Side of the square images that the model sees.", AT_LEAST_1
    )
    test_fraction: float = _field(
        0.25,
        "Share of the classes kept for the test, if the data name no test set.",
        FRACTION,
    )
    num_landmarks: int = _field(
        200, "Embedded set: number of training landmarks.", AT_LEAST_2
    )
    num_test_landmarks: int = _field(
        50, "Embedded set: number of test landmarks.", AT_LEAST_2
    )
    views_per_landmark: int = _field(
        10, "Embedded set: images of each landmark.", AT_LEAST_2
    )
    backbone: str = _field(
        "small_resnet",
        "'small_resnet' or a class of keras.applications ('ResNet50').",
        NOT_EMPTY,
    )
    weights: str = _field(
        "", "Weights of the backbone: '' (random), 'imagenet' or a file."
    )
    units: int = _field(128, "Size of the embedding.", AT_LEAST_1)
    pooling: str = _field("gem", "'gem', 'max' or 'average'.", POOLING)
    whitening: bool = _field(
        False, "Learn a PCA whitening on the training images after training."
    )
    whitening_power: float = _field(
        0.5, "Power of the variances that it divides by.", POWER
    )
    classes_per_batch: int = _field(16, "Classes in a batch.", AT_LEAST_2)
    images_per_class: int = _field(8, "Images of each class in a batch.", AT_LEAST_2)
    batch_size: int = _field(
        0,
        "Images in a batch; 0: classes_per_batch times images_per_class. If it is given"
        " the number of classes follows, and if there are not so many, that of images.",
        NOT_NEGATIVE,
    )
    num_chunks: int = _field(
        0,
        "Pieces in which a batch is embedded (multistage backpropagation); 0: as few as"
        " memory_gib allows.",
        NOT_NEGATIVE,
    )
    memory_gib: float = _field(
        4.0, "Memory for the activations of a chunk, on each device.", ABOVE_0
    )
    precision: str = _field(
        "float32",
        "'float32'; 'mixed_float16' (with loss scaling) or 'mixed_bfloat16' compute in "
        "16 bits, faster on GPUs made for it.",
        PRECISION,
    )
    strategy: str = _field(
        "one_device",
        "'one_device'; 'mirrored': all GPUs of this machine, with TensorFlow; "
        "'data_parallel': all devices of one or more hosts, with KERAS_BACKEND=jax.",
        STRATEGY,
    )
    epochs: int = _field(12, "Number of epochs.", AT_LEAST_1)
    steps_per_epoch: int = _field(
        0,
        "Batches per epoch; 0: as many as hold all training images once.",
        NOT_NEGATIVE,
    )
    learning_rate: float = _field(
        2e-3,
        "Highest learning rate of Adam; it warms up, then falls along a cosine.",
        ABOVE_0,
    )
    weight_decay: float = _field(1e-4, "Decoupled weight decay (AdamW).", NOT_NEGATIVE)
    num_bins: int = _field(20, "Bins of the AP loss.", AT_LEAST_2)
    exclude_self: bool = _field(
        False, "Leave a query out of its own ranked list in the AP loss."
    )
    augment: bool = _field(True, "Augment the training images at random.")
    crop_scale: float = _field(
        0.6, "Augmentation: least area of the random crop.", SHARE
    )
    rotation: float = _field(
        5.0, "Augmentation: largest rotation, in degrees.", NOT_NEGATIVE
    )
    flip: bool = _field(False, "Augmentation: mirror every other image.")
    colour_jitter: float = _field(
        0.2, "Augmentation: range of brightness, contrast and saturation.", NOT_NEGATIVE
    )
    seed: int = _field(0, "Seed of everything random.", NOT_NEGATIVE)
    workers: int = _field(1, "Threads that prepare batches.", AT_LEAST_1)
    cache_gib: float = _field(
        4.0,
        "Decode files once and keep them in memory if they need less than this.",
        NOT_NEGATIVE,
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    @property
    def model_name(self) -> str:
        """Name of the exported model: `name`, or that of the data.

        >>> RunSettings(data="photos/").model_name
        'photos'
        """
        path = pathlib.Path(self.data)
        stem = path.stem if path.suffix.lower() == ".csv" else path.resolve().name
        return self.name or stem or "model"

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
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{problem} which cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(
                f"{problem} which holds no object of settings such as "
                '{"epochs": 20}. Write one.'
            )
        unknown = sorted(
            set(values) - {field.name for field in dataclasses.fields(cls)}
        )
        if unknown:
            raise ValueError(
                f"{problem} with unknown settings: {', '.join(unknown)}. `keras-aploss "
                "train --help` lists them all."
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{problem} with a wrong value: {error}") from error


def _check(field, value):
    kind = type(field.default)
    whole = type(value) is int and kind is float
    if type(value) is not kind and not whole:
        raise ValueError(
            f"Expected `{field.name}` to be of type {kind.__name__}. Received: "
            f"{field.name}={value!r}."
        )
    finite = not isinstance(value, float) or math.isfinite(value)
    wanted, allows = field.metadata["allowed"] or ("finite", lambda value: True)
    if not finite or not allows(value):
        raise ValueError(
            f"Expected `{field.name}` to be {wanted}. Received: {field.name}={value!r}."
        )
