"""The order of the axes of images."""

import contextlib
from collections.abc import Iterator

import keras
from keras import layers


@contextlib.contextmanager
def channels_last() -> Iterator[None]:
    """Build layers for images `(B, H, W, 3)`, whatever `keras.json` says."""
    kept = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(kept)


def check_channels_last(model: keras.Model) -> None:
    """Refuse a model whose layers take images as `(B, 3, H, W)`.

    Layers keep the order that `keras.json` told when they were made.

    Raises:
        ValueError: if the first of its layers that has an order has this one. A model
            that begins with a permutation takes care of it itself.
    """
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
    first = _first_of_images(model)
    # Padding and pooling layers, too, that are made for (3, H, W).
    is_first = first is not None and first.data_format == "channels_first"
    if is_first or (len(shape) == 3 and shape[0] == 3 and shape[2] not in (None, 3)):
        at = f", by its layer {first.name!r}" if is_first else ""
        raise ValueError(
            "Expected a backbone for images (B, H, W, 3), as they are read and served. "
            f"Received: {model.name!r}, for images (B, 3, H, W){at}: it was built with "
            "`image_data_format='channels_first'`, as `keras.json` may say. Call "
            "`keras.config.set_image_data_format('channels_last')` before you build "
            "it, with images of shape (H, W, 3); or begin it with "
            "`keras.layers.Permute((3, 1, 2))` and end it with `Permute((2, 3, 1))`."
        )


def _first_of_images(model):
    """The first layer that knows an order of the axes; None after a permutation."""
    for layer in getattr(model, "layers", []):
        if isinstance(layer, layers.Permute):
            return None
        found = _first_of_images(layer)
        if found is None and hasattr(layer, "data_format"):
            found = layer
        if found is not None:
            return found
    return None
