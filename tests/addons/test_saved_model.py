"""Our exported SavedModels in TensorFlow 2.15.

`tox -e addons` runs this; model, files and expected embeddings are of `write_ours.py`.
"""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

FOLDER = pathlib.Path(os.environ["KERAS_APLOSS_OURS"])
EXPECTED = np.load(FOLDER / "embeddings.npz")
FILES = [(FOLDER / "images" / name).read_bytes() for name in EXPECTED["names"]]


@pytest.fixture(scope="module")
def served():
    model = tf.saved_model.load(str(FOLDER / "saved_model" / "1"))
    assert sorted(model.signatures) == ["images", "serving_default"]
    return model.signatures


def embeddings(signature, **arguments):
    return signature(**{k: tf.constant(v) for k, v in arguments.items()})["embedding"]


def test_files_are_embedded_as_by_keras(served):
    expected = EXPECTED["embeddings"]
    assert np.ptp(expected, axis=0).min() > 0.05  # the images do differ
    together = embeddings(served["serving_default"], image_bytes=FILES)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    for file, row in zip(FILES, expected, strict=True):
        alone = embeddings(served["serving_default"], image_bytes=[file])
        np.testing.assert_allclose(alone, row[None], atol=1e-5)


@pytest.mark.parametrize(
    ("images", "expected"),
    [("decoded", "embeddings"), ("wide", "embeddings_of_wide")],
)
def test_decoded_images_of_any_size_are_embedded_as_by_keras(served, images, expected):
    result = embeddings(served["images"], images=EXPECTED[images])
    np.testing.assert_allclose(result, EXPECTED[expected], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [b"", b"<html>not found</html>", FILES[0][:-30], b"\xff\xd8\xff\xe0 nonsense"],
    ids=["empty", "html", "truncated", "header"],
)
def test_bad_bytes_are_an_error_that_names_them(served, bad):
    batch = [FILES[0], bad, FILES[1], bad]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"positions.*\[1 3\]"):
        embeddings(served["serving_default"], image_bytes=batch)
    # The server lives on.
    again = embeddings(served["serving_default"], image_bytes=FILES[:1])
    np.testing.assert_allclose(again, EXPECTED["embeddings"][:1], atol=1e-5)


def test_an_empty_batch_gives_no_embeddings(served):
    units = EXPECTED["embeddings"].shape[1]
    files = served["serving_default"](image_bytes=tf.constant([], tf.string))
    images = embeddings(served["images"], images=np.zeros((0, 40, 40, 3), "float32"))
    assert files["embedding"].shape == images.shape == (0, units)
