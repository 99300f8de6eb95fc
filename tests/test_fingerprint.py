"""Digests that tell apart what embeddings depend on."""

import json

import keras
import numpy as np

from keras_aploss.embeddings.fingerprint import describe_images, weights_digest
from keras_aploss.images import ImageFiles, OriginalImages


def test_images_and_how_they_are_read_are_told_apart():
    files = OriginalImages(["a.jpg", "b.jpg"])
    base = describe_images(files)
    assert json.loads(json.dumps(base)) == base
    different = {
        "paths": OriginalImages(["b.jpg", "a.jpg"]),
        "max_size": OriginalImages(files.paths, max_size=9),
        "boxes": OriginalImages(files.paths, boxes=[None, (0, 0, 1, 1)]),
    }
    for name, images in different.items():
        other = describe_images(images)
        assert [key for key in base if other[key] != base[key]] == [name]
    assert describe_images(ImageFiles(files.paths, 8))["image_size"] == 8
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    assert describe_images(pixels) != describe_images(pixels + 1)


def test_models_are_told_apart():
    def model(seed):
        start = keras.initializers.HeNormal(seed)
        dense = keras.layers.Dense(2, kernel_initializer=start)
        return keras.Sequential([keras.Input((3,)), dense])

    assert weights_digest(model(0)) == weights_digest(model(0))
    assert weights_digest(model(0)) != weights_digest(model(1))


def test_models_without_weights_are_told_apart_by_what_they_compute():
    def model(scale):
        layers = [keras.layers.Rescaling(scale), keras.layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input((None, None, 3)), *layers])

    assert weights_digest(model(1.0)) == weights_digest(model(1.0))
    assert weights_digest(model(1.0)) != weights_digest(model(2.0))
