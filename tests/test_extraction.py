"""Extraction into a file by a model: settings, files that are bad, threads that end."""

import json
import os

import keras
import numpy as np
import PIL.Image
import pytest
from command_line import read_table

from keras_aploss import ImageFiles, embed, extract_embeddings, images, retrieval_model
from keras_aploss.embeddings import (
    combine_scales,
    embed_at_scales,
    extract_files,
)
from keras_aploss.images import OriginalImages, find_unreadable


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return retrieval_model("small_resnet", units=8)


@pytest.fixture
def paths(tmp_path):
    """Nine photos of two sizes; some files among them are none."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / "photos" / f"{number}.png") for number in range(12)]
    for number, path in enumerate(paths):
        size = (40, 30, 3) if number % 2 else (24, 36, 3)
        PIL.Image.fromarray(rng.integers(0, 256, size, "uint8")).save(path)
    open(paths[0], "wb").close()
    os.truncate(paths[5], 60)
    os.remove(paths[11])
    return paths


GOOD = [1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (lambda paths: ImageFiles(paths, 16), {}),
        (lambda paths: OriginalImages(paths), {"scales": (1.0, 0.5), "power": 3.0}),
    ],
)
def test_files_that_are_images_have_the_rows_of_a_clean_list(
    model, paths, tmp_path, kind, options
):
    path = tmp_path / "photos.npy"
    embeddings, skipped = extract_files(
        model, kind(paths), path, batch_size=4, **options
    )
    good = [paths[i] for i in GOOD]
    expected = extract_embeddings(model, kind(good), tmp_path / "e.npy", **options)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert skipped == find_unreadable(paths)
    assert [row for (row,) in read_table(f"{path}.csv")[1:]] == good
    again, _ = extract_files(model, kind(paths), path, batch_size=4, **options)
    np.testing.assert_array_equal(again, embeddings)


def test_what_is_damaged_after_it_was_looked_at_is_left_out(
    model, paths, tmp_path, monkeypatch
):
    good = [paths[i] for i in GOOD]

    def look(path, look=images.reason_to_skip):
        reason = look(path)
        if path == good[2]:
            os.truncate(path, 40)
        return reason

    monkeypatch.setattr(images, "reason_to_skip", look)
    path = tmp_path / "e.npy"
    embeddings, skipped = extract_files(model, ImageFiles(good, 16), path)
    assert [skipped_path for skipped_path, _ in skipped] == [good[2]]
    assert len(embeddings) == len(good) - 1


def test_a_bad_file_is_an_error_where_all_are_promised(model, paths, tmp_path):
    images = ImageFiles(paths[4:7], 16)
    with pytest.raises(ValueError, match=r"photos/5\.png"):
        extract_embeddings(model, images, tmp_path / "e.npy", batch_size=1)
    assert (tmp_path / "e.npy.partial").exists()  # what was done before


def test_what_makes_no_embeddings_is_told(model, tmp_path):
    images = np.zeros((2, 16, 16, 3), "uint8")
    path = tmp_path / "e.npy"
    for options in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="at least one image"):
            extract_embeddings(model, images, path, **options)
    with pytest.raises(ValueError, match="`power` above 0"):
        extract_embeddings(model, images, path, power=0)
    with pytest.raises(ValueError, match=r"images\[0\]\.shape=\(16, 3\)"):
        extract_embeddings(model, images[0], path)
    flat = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match=r"one output of shape \(B, D\)"):
        extract_embeddings(flat, images, path)
    diverged = keras.models.clone_model(model)
    diverged.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match=r"NaN or infinity for images\[0\]"):
        extract_embeddings(diverged, images, path)
    assert not list(tmp_path.iterdir())


def test_scales_are_embedded_and_combined(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), "uint8")
    apart = embed_at_scales(model, images, (1.0, 0.5), batch_size=2)
    np.testing.assert_allclose(apart[0], embed(model, images), atol=1e-6)
    path = tmp_path / "e.npy"
    together = extract_embeddings(model, images, path, scales=(1.0, 0.5), batch_size=2)
    np.testing.assert_allclose(together, combine_scales(apart), atol=1e-6)
    note = json.loads((tmp_path / "e.npy.json").read_text())
    assert note["settings"]["scales"] == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"pixels=.*Received: pixels="):
        extract_embeddings(model, images + 1, path, scales=(1.0, 0.5), batch_size=2)
