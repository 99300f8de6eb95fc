"""The sizes of images that a model takes.

Most networks take images of any size. A transformer with learnt positions, or a network
whose padding is computed from the size, is built for one. TensorFlow would run some of
them on other sizes all the same, and give embeddings that mean nothing.

Dimension key: H, W height and width of images, S their side if they are square.
"""

from collections.abc import Sequence

import keras
import numpy as np


def input_size(model: keras.Model) -> tuple[int | None, int | None]:
    """Height and width of the images that a model is built for; None: any.

    Example:
    >>> import keras
    >>> from keras_aploss.embeddings import input_size
    >>> images = keras.Input((32, 32, 3))
    >>> input_size(keras.Model(images, keras.layers.Flatten()(images)))
    (32, 32)
    """
    inputs = getattr(model, "inputs", None)
    if inputs is None:  # a MultistageTrainer has those of its encoder
        inputs = getattr(getattr(model, "encoder", None), "inputs", None) or []
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    is_of_images = len(shape) == 4 and shape[3] in (1, 3)
    return shape[1:3] if is_of_images else (None, None)


def check_image_size(model: keras.Model, size: int | tuple[int, int]) -> None:
    """Refuse images of a size that a model is not built for.

    Args:
        model: maps `(B, H, W, 3)` images to embeddings.
        size: S, or (H, W).

    Raises:
        ValueError: for another size; says which one it takes.

    Example:
    >>> import keras
    >>> from keras_aploss.embeddings import check_image_size
    >>> images = keras.Input((32, 32, 3))
    >>> model = keras.Model(images, keras.layers.Flatten()(images), name="vit")
    >>> check_image_size(model, 48)
    Traceback (most recent call last):
    ...
    ValueError: Expected images of 32 x 32 pixels, for which 'vit' is built. Received:
    48 x 48. Choose image_size=32 (`--image-size 32`); or build the model anew for the
    other size.
    """
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    own = input_size(model)
    if own[0] in (None, height) and own[1] in (None, width):
        return
    advice = "Resize them to it"
    if own[0] == own[1]:
        advice = f"Choose image_size={own[0]} (`--image-size {own[0]}`)"
    raise ValueError(
        f"Expected images of {_text(own)} pixels, for which {model.name!r} is built. "
        f"Received: {_text((height, width))}. {advice}; or build the model anew for "
        "the other size."
    )


def check_scales_of(model: keras.Model, scales: Sequence[float]) -> None:
    """Refuse several scales for a model of images of one size.

    Raises:
        ValueError: for scales that would make images of other sizes.
    """
    own = input_size(model)
    if own != (None, None) and any(scale != 1 for scale in scales):
        raise ValueError(
            "Expected a model for images of any size, to run it at several scales. "
            f"Received: scales={list(scales)} for {model.name!r}, which is built for "
            f"images of {_text(own)} pixels. Take the one scale 1, or a model with an "
            "input of shape (None, None, 3)."
        )


def check_images(model: keras.Model, images, scales: Sequence[float] = (1.0,)) -> None:
    """Refuse images, before any is read, of sizes that a model is not built for.

    Args:
        model: maps `(B, H, W, 3)` images to embeddings.
        images: an array, `ImageFiles`, `OriginalImages`; the sizes of other sequences
            are not known before they are read.
        scales: at which each image is to be embedded.

    Raises:
        ValueError: for images of another or of their own size, or several scales.
    """
    check_scales_of(model, scales)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        check_image_size(model, images.shape[1:3])
        return
    if not hasattr(images, "paths"):
        return
    if getattr(images, "crop", False):
        check_image_size(model, images.image_size)
    elif (own := input_size(model)) != (None, None):
        raise ValueError(
            f"Expected square crops, such as `ImageFiles(paths, {own[0]})` "
            f"(`--image-size {own[0]}`): {model.name!r} is built for images of "
            f"{_text(own)} pixels. Received: {type(images).__name__}, whole images of "
            "any size."
        )


def _text(size):
    return " x ".join("any" if side is None else str(side) for side in size)
