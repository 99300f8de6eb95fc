"""The model card of an exported version: its data, recipe, metrics and limits.

A file of weights says nothing of itself. The card lies inside the version that it is
of, so that it can neither be lost nor describe another one.
"""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence

import keras

from keras_aploss.files import as_text
from keras_aploss.report import describe_classes
from keras_aploss.runs.settings import RunSettings

_METRICS = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}


def model_card(
    name: str,
    *,
    image_size: int,
    units: int,
    max_pixels: int,
    scales: Sequence[float] = (1.0,),
    whitened: bool = False,
    settings: RunSettings | None = None,
    evaluation: Mapping | None = None,
    epochs: int | None = None,
    is_finished: bool = True,
) -> str:
    """The card of a version, in Markdown.

    Args:
        name: under which the model is served.
        image_size: side of the square crops to which files are resized.
        units: size of the embedding.
        max_pixels: above which files are refused.
        scales: at which each image is embedded.
        whitened: whether a whitening was given to the export.
        settings: of the run; None for a model from elsewhere.
        evaluation: what `evaluation.json` of the run holds; None if it is not there.
        epochs: number of epochs that the model was trained for; None: not known.
        is_finished: whether its run has ended with its last epoch.
    """
    import tensorflow as tf

    sections = {
        "Data": _data(settings),
        "Recipe": _recipe(settings, epochs, is_finished),
        "Metrics": _metrics(evaluation, settings),
        "Signatures": _signatures(image_size, units, scales, whitened),
        "Limits": _limits(image_size, max_pixels, settings),
        "Use": _use(name),
    }
    text = "".join(f"\n## {title}\n\n{body}\n" for title, body in sections.items())
    return as_text(
        f"# {name}\n\nMaps images to embeddings of unit length, whose dot product is "
        "their similarity.\nExported by `keras-aploss` with TensorFlow "
        f"{tf.__version__} and Keras {keras.__version__}.\n{text}"
    )


def read_evaluation(folder: pathlib.Path) -> dict | None:
    """The figures of a run folder, or None if it has none that can be read."""
    try:
        text = (folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8")
        figures = json.loads(text)
        return figures if isinstance(figures["metrics"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _data(settings):
    if settings is None:
        return "Not known: the model comes from a file outside a run folder."
    if settings.data == "landmarks":
        return (
            f"The built-in data set: {settings.num_landmarks} drawn buildings for "
            f"training and {settings.num_test_landmarks} others for testing, with "
            f"{settings.views_per_landmark} views of each at {settings.image_size} px."
        )
    return (
        f"`{portable(settings).data}`: your own labelled images. Describe "
        "here their source and their licence."
    )


def portable(settings: RunSettings) -> RunSettings:
    """The settings with the last part of each path only.

    A version travels, and folders tell of their owners.
    """
    names = {
        field: pathlib.Path(getattr(settings, field)).name
        for field in ("data", "weights")
    }
    backbone = pathlib.Path(settings.backbone)
    if backbone.is_absolute() or backbone.exists():  # a trained model, or a preset
        names["backbone"] = backbone.name
    return dataclasses.replace(settings, **names)


def _recipe(settings, epochs, is_finished):
    if settings is None:
        return "Not known."
    return f"{_command(portable(settings))}{_state(settings, epochs, is_finished)}"


def _state(settings, epochs, is_finished):
    """How far the training went, unless it is that of the command."""
    if is_finished and epochs in (None, settings.epochs):
        return ""
    count = "an unknown number" if epochs is None else epochs
    if is_finished:
        return (
            f"\n\nThis is the model after {count} of {settings.epochs} epochs, those "
            "with the highest mAP on the test set, which that flatters."
        )
    return (
        f"\n\n**The training is not finished: this is the model after {count} of "
        f"{settings.epochs} epochs.**"
    )


def _command(settings):
    defaults = RunSettings()
    options = ["keras-aploss", "train"]
    for field in dataclasses.fields(RunSettings):
        value = getattr(settings, field.name)
        if value == getattr(defaults, field.name):
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return f"```sh\n{shlex.join(options)}\n```"


def _metrics(evaluation, settings):
    if evaluation is None:
        return "Not measured, or the run folder has no `evaluation/evaluation.json`."
    rows = [f"| | {' | '.join(_METRICS.values())} |", "|---|---|---|---|"]
    for name, metrics in evaluation["metrics"].items():
        values = [metrics.get(key) for key in _METRICS]
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    at = "" if settings is None else f", on images of {settings.image_size} px"
    return (
        f"Exact, on the test set: {_counts(evaluation)}. They are of the model as it "
        f"was trained{at}; another image size, scales or a whitening that the export "
        "added were not measured.\n\n" + "\n".join(rows)
    )


def _counts(evaluation):
    """What the figures are of; those of earlier versions do not count classes."""
    counts = [evaluation.get(f"num_{what}", "?") for what in ("queries", "images")]
    classes = evaluation.get("num_classes")
    seen = evaluation.get("num_classes_seen_in_training")
    found = f"{counts[0]} queries"
    found += "" if classes is None else f" of {describe_classes(classes, seen)}"
    found += f", {counts[1]} images"
    if seen is None:
        found += "; whether classes of the training are among them is not known"
    return found


def _signatures(image_size, units, scales, whitened):
    inside = "decoding, EXIF orientation, the central square"
    inside += f" at {image_size} x {image_size}"
    if tuple(scales) != (1.0,):
        inside += f", the scales {', '.join(f'{scale:g}' for scale in scales)}"
    if whitened:
        inside += ", a whitening"
    return f"""\
| signature | input | output |
|---|---|---|
| `serving_default` | `image_bytes` `(B,)`: JPEG, PNG, GIF or BMP files of any size | \
`embedding` `(B, {units})` float32 |
| `images` | `images` `(B, H, W, 3)` float32, RGB from 0 to 255 | \
`embedding` `(B, {units})` |

In the graph: {inside}. `images` leaves out decoding and the square."""


def _limits(image_size, max_pixels, settings):
    known = "" if settings is None else " Accuracy on other kinds of images is unknown."
    return (
        f"Files that declare more than {max_pixels:,} pixels, or cannot be decoded, "
        "are refused, with their positions in the batch. The model sees only the "
        f"central square of an image, at {image_size} px.{known} Embeddings of two "
        "versions are not comparable: rebuild the index after each export."
    )


def _use(name):
    return f"""\
In the folder above this one:

```sh
docker compose up --detach --wait
keras-aploss embed photos/ --server grpc://localhost:8500 --model {name} \\
    --output photos.npy
```"""
