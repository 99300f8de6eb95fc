"""The settings of a training run: one list for the command line, files and Python.

Each field is an option of `keras-aploss train` (`learning_rate` is `--learning-rate`),
a line of the run folder's `settings.json`, and an argument of `RunSettings`.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from typing import Any

AT_LEAST_1 = "at least 1", lambda value: value >= 1
AT_LEAST_2 = "at least 2", lambda value: value >= 2
NOT_NEGATIVE = "not negative", lambda value: value >= 0
ABOVE_0 = "above 0", lambda value: value > 0
BELOW_1 = "above 0 and below 1", lambda value: 0 < value < 1
UP_TO_1 = "above 0 and at most 1", lambda value: 0 < value <= 1
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
MOST_IMAGES = 2**20  # of a batch
POOLING = (
    "'gem', 'average', 'max', 'cls' or 'cls+gem'",
    ("gem", "average", "max", "cls", "cls+gem").__contains__,
)


def _field(default: Any, help: str, allowed: tuple | None = None) -> Any:
    metadata = {"help": help, "allowed": allowed}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides the result of a training run.

    The defaults are those of the main job: a small network, trained from random
    weights on the built-in data set in about three minutes on two cores.

    A batch holds `classes_per_batch` classes with `images_per_class` images each.
    `replace(batch_size=...)` chooses the number of classes by the size of the batch.

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
        "Training data: 'landmarks' (the built-in data set), a folder with one "
        "sub-folder of images per class (or 'train' and 'test' folders of such), or a "
        "CSV file with the columns path, label and, optionally, split.",
        NOT_EMPTY,
    )
    name: str = _field(
        "", "Name of the exported model; by default the name of the data."
    )
    image_size: int = _field(
        0,
        "Side of the square images that the model sees; 0: that of the pretrained "
        "network (224 for most), or 64 for random weights.",
        NOT_NEGATIVE,
    )
    test_fraction: float = _field(
        0.25,
        "Fraction of the classes held out as the test set, if the data define none.",
        BELOW_1,
    )
    keep_duplicates: bool = _field(
        False,
        "Keep files with the contents of another one in the test set, where they find "
        "each other whatever the model is.",
    )
    num_landmarks: int = _field(
        200, "Built-in data set: number of training classes.", AT_LEAST_2
    )
    num_test_landmarks: int = _field(
        50, "Built-in data set: number of test classes.", AT_LEAST_2
    )
    views_per_landmark: int = _field(
        10, "Built-in data set: images per class.", AT_LEAST_2
    )
    backbone: str = _field(
        "small_resnet",
        "'small_resnet', a class of keras.applications, such as 'ResNet50', or a "
        "preset of keras-hub, such as 'dinov2_small', or the folder of one (presets "
        "have weights of their own).",
        NOT_EMPTY,
    )
    weights: str = _field(
        "", "Initial weights of the backbone: '' (random), 'imagenet' or a file."
    )
    units: int = _field(
        128,
        "Number of dimensions of the embedding, made by a projection; 0: no projection,"
        " the embedding has the channels of the backbone.",
        NOT_NEGATIVE,
    )
    pooling: str = _field(
        "gem",
        "Global pooling: 'gem', 'average' or 'max'; for transformers also 'cls' (the "
        "class token) or 'cls+gem'.",
        POOLING,
    )
    whitening: bool = _field(
        False, "After training, fit a PCA whitening on the training images."
    )
    whitening_power: float = _field(
        0.5, "Whitening: exponent of the variances that it divides by.", POWER
    )
    classes_per_batch: int = _field(16, "Classes in a batch.", AT_LEAST_2)
    images_per_class: int = _field(8, "Images of each class in a batch.", AT_LEAST_2)
    num_chunks: int = _field(
        0,
        "Number of chunks in which a batch is embedded (multistage backpropagation); "
        "0: as few as memory_gib allows.",
        NOT_NEGATIVE,
    )
    memory_gib: float = _field(
        4.0, "Memory for the activations of a chunk, per device, in GiB.", ABOVE_0
    )
    precision: str = _field(
        "float32",
        "'float32', 'mixed_float16' (with loss scaling) or 'mixed_bfloat16'; 16 bits "
        "are faster on GPUs with tensor cores.",
        PRECISION,
    )
    strategy: str = _field(
        "one_device",
        "'one_device'; 'mirrored': all GPUs of this machine (TensorFlow); "
        "'data_parallel': all devices of one or more hosts (KERAS_BACKEND=jax).",
        STRATEGY,
    )
    epochs: int = _field(
        0,
        "Number of epochs; 0: 8 for a pretrained network, 12 for random weights.",
        NOT_NEGATIVE,
    )
    steps_per_epoch: int = _field(
        0,
        "Batches per epoch; 0: as many as cover all training images once.",
        NOT_NEGATIVE,
    )
    learning_rate: float = _field(
        0.0,
        "Peak learning rate of AdamW: linear warm-up, then cosine decay; 0: 3e-4 for a "
        "pretrained network (1e-4 without projection), 3e-5 for a pretrained "
        "transformer, 2e-3 for random weights.",
        NOT_NEGATIVE,
    )
    weight_decay: float = _field(1e-4, "Decoupled weight decay (AdamW).", NOT_NEGATIVE)
    num_bins: int = _field(20, "AP loss: number of histogram bins.", AT_LEAST_2)
    exclude_self: bool = _field(
        False, "AP loss: leave each query out of its own ranked list."
    )
    augment: bool = _field(True, "Augment the training images.")
    crop_scale: float = _field(
        0.6, "Augmentation: minimum area of the random crop, as a fraction.", UP_TO_1
    )
    rotation: float = _field(
        5.0, "Augmentation: maximum rotation, in degrees.", NOT_NEGATIVE
    )
    flip: bool = _field(False, "Augmentation: mirror images with probability 0.5.")
    colour_jitter: float = _field(
        0.2, "Augmentation: range of brightness, contrast and saturation.", NOT_NEGATIVE
    )
    seed: int = _field(0, "Seed of all random numbers.", NOT_NEGATIVE)
    workers: int = _field(1, "Number of threads that prepare batches.", AT_LEAST_1)
    cache_gib: float = _field(
        4.0,
        "Decode files once and keep them in memory if they fit in this many GiB.",
        NOT_NEGATIVE,
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        _check_batch_size(self.batch_size)

    @property
    def batch_size(self) -> int:
        """Images in a batch: `classes_per_batch * images_per_class`."""
        return self.classes_per_batch * self.images_per_class

    @property
    def model_name(self) -> str:
        """Name of the exported model: `name`, or that of the data.

        >>> RunSettings(data="photos/").model_name
        'photos'
        """
        path = pathlib.Path(self.data)
        stem = path.stem if path.suffix.lower() == ".csv" else path.resolve().name
        # TensorFlow writes models to paths in UTF-8 only.
        return self.name or re.sub("[\ud800-\udfff]+", "-", stem) or "model"

    def replace(self, *, batch_size: int = 0, **values: Any) -> "RunSettings":
        """Return these settings with other values.

        Args:
            batch_size: Images in a batch, instead of `classes_per_batch`: the batch
                holds as many classes as divide it evenly with at least
                `images_per_class` images each. 0: as `classes_per_batch` says.
            **values: Fields of `RunSettings`.

        Raises:
            ValueError: if a value is wrong, or `batch_size` is no product of two or
                more classes and two or more images of each.

        Example:
        >>> settings = RunSettings().replace(batch_size=4096, images_per_class=8)
        >>> settings.classes_per_batch, settings.images_per_class
        (512, 8)
        """
        settings = dataclasses.replace(self, **values)
        if type(batch_size) is not int or batch_size < 0:
            raise ValueError(
                "Expected `batch_size` to be of type int and not negative. Received: "
                f"batch_size={batch_size!r}."
            )
        if not batch_size:
            return settings
        _check_batch_size(batch_size)  # before its divisors are looked for
        classes = largest_divisor(batch_size, batch_size // settings.images_per_class)
        if classes is None:
            raise ValueError(
                "Expected `batch_size` to be a product of two or more classes and "
                f"images_per_class={settings.images_per_class} or more images of each. "
                f"Received: batch_size={batch_size}. Choose a power of two."
            )
        return dataclasses.replace(
            settings, classes_per_batch=classes, images_per_class=batch_size // classes
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings to a JSON file."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "RunSettings":
        """Read settings from a JSON file; those it does not name keep their default.

        Besides the fields of `RunSettings` it may hold `batch_size`, see `replace`.
        """
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
        known = {field.name for field in dataclasses.fields(cls)} | {"batch_size"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"{problem} with unknown settings: {', '.join(unknown)}. `keras-aploss "
                "train --help` lists them all."
            )
        try:
            return cls().replace(**values)
        except ValueError as error:
            raise ValueError(f"{problem} with a wrong value: {error}") from error


def largest_divisor(size: int, limit: int) -> int | None:
    """The largest divisor of `size` from 2 to `limit`, but below `size`; or None.

    >>> largest_divisor(128, 10)
    8
    """
    limit = min(limit, size // 2)
    return next((n for n in range(limit, 1, -1) if size % n == 0), None)


def _check_batch_size(size):
    if size > MOST_IMAGES:
        raise ValueError(
            f"Expected a batch of at most {MOST_IMAGES:,} images, which a step reads "
            f"and compares in pairs. Received: {size:,}."
        )


def _check(field, value):
    kind = type(field.default)
    whole = type(value) is int and kind is float
    if type(value) is not kind and not whole:
        raise ValueError(
            f"Expected `{field.name}` to be of type {kind.__name__}. Received: "
            f"{field.name}={value!r}."
        )
    try:
        finite = kind is not float or math.isfinite(value)
    except OverflowError:  # an integer above all floats
        finite = False
    wanted, allows = field.metadata["allowed"] or ("finite", lambda value: True)
    if kind is int and value >= 2**32:  # a seed may be up to there
        wanted, finite = "below 2**32", False
    if not finite or not allows(value):
        raise ValueError(
            f"Expected `{field.name}` to be {wanted}. Received: {field.name}={value!r}."
        )
