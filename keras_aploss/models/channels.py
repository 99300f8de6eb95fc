"""The order of the axes of images."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def channels_last() -> Iterator[None]:
    """Build layers for images `(B, H, W, 3)`, whatever `keras.json` says."""
    kept = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(kept)
