"""A folder of photos and an index of it, whose model can be computed by hand.

The embedding of an image is its mean colour, brought to unit length.
"""

import io

import keras
import numpy as np
import PIL.Image

from keras_aploss import VectorIndex, index_folder
from keras_aploss.embeddings import model_fingerprint

SIZE = 16


def colour_model():
    images = keras.Input((None, None, 3))
    means = keras.layers.GlobalAveragePooling2D()(images)
    return keras.Model(images, keras.layers.UnitNormalization()(means))


def colour_of(pixels):
    """The oracle: the embedding of pixels that the model sees whole."""
    mean = np.asarray(pixels, "float64").reshape(-1, 3).mean(0)
    return mean / np.linalg.norm(mean)


def encode(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour, size=(40, 30)):
    return PIL.Image.new("RGB", size, tuple(map(int, colour)))


def write_colours(folder, number=30):
    """Photos of plain colours, in sub-folders and with names that are hard."""
    rng = np.random.default_rng(5)
    labels = ["crow", "jäy & <b>co", "new\nline", ""]
    for i in range(number):
        label = labels[i % len(labels)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        colour = rng.integers(10, 256, 3) if i % 7 else (200, 100, 50)
        (folder / label / f"{i:02d} ü&.png").write_bytes(encode(plain(colour)))
    return folder


def indexed(folder, **options):
    """An index of a folder, and its model."""
    model = colour_model()
    fingerprint = model_fingerprint(model, SIZE)
    index = VectorIndex(units=3, fingerprint=fingerprint, **options)
    index_folder(index, model, folder, image_size=SIZE)
    return index, model
