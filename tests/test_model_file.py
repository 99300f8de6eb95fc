"""A model on its way to the workers: the same embeddings, and nobody else's."""

import os

import keras
import numpy as np
import pytest

from keras_aploss import export_saved_model, retrieval_model
from keras_aploss.runs import open_model
from keras_aploss.workers.model_file import load_model, model_file

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return retrieval_model("small_resnet", units=8)


def test_a_worker_has_the_same_model(model, tmp_path):
    with model_file(model, str(tmp_path)) as place:
        loaded = load_model(*place)
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert os.listdir(tmp_path) == []


def test_a_saved_model_is_brought_as_well(model, tmp_path):
    version = export_saved_model(model, tmp_path / "exported", image_size=32)
    encoder = open_model(version, needs_size=False).encoder
    before = encoder.layers[1].filepath
    (tmp_path / "shards").mkdir()
    with model_file(encoder, str(tmp_path / "shards")) as place:
        os.rename(tmp_path / "exported", tmp_path / "elsewhere")  # not seen by workers
        loaded = load_model(*place)
    np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=1e-6)
    assert encoder.layers[1].filepath == before


def test_a_program_of_its_own_is_loaded(tmp_path):
    """Keras refuses lambdas of a file; this one is in the memory of the caller."""
    images = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Lambda(lambda x: 2 * x)(pooled))
    with model_file(model, str(tmp_path)) as place:
        np.testing.assert_array_equal(load_model(*place)(IMAGES), model(IMAGES))


def test_another_file_in_its_place_is_refused(model, tmp_path):
    other = retrieval_model("small_resnet", units=8)
    with model_file(model, str(tmp_path)) as (place, digest):
        other.save(os.path.join(place, "model.keras"))
        with pytest.raises(ValueError, match=r"as it was written\. Received: another"):
            load_model(place, digest)
