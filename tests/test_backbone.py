"""A run, or a file of a model, as the backbone of a new run."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
from command_line import fail

from keras_aploss import RunSettings, retrieval_model
from keras_aploss.models import small_resnet
from keras_aploss.runs.backbone import is_trained_model
from keras_aploss.runs.card import portable
from keras_aploss.runs.network import build_encoder


@pytest.fixture
def going_on(tiny_settings, finished_run):
    """Settings that go on from the finished run."""
    return dataclasses.replace(tiny_settings, backbone=str(finished_run.folder))


def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")


@pytest.mark.parametrize("part", ["", "model.keras", "last.keras", "best.keras"])
def test_the_training_goes_on_from_a_run_or_one_of_its_files(
    going_on, finished_run, part
):
    path = finished_run.folder / part
    assert is_trained_model(str(path))
    new = build_encoder(dataclasses.replace(going_on, backbone=str(path)))
    old = keras.saving.load_model(finished_run.folder / (part or "model.keras"))
    np.testing.assert_allclose(new(images()), old(images()), atol=1e-6)
    assert new.trainable_weights
    norms = [layer for layer in new.get_layer("small_resnet").layers
             if isinstance(layer, keras.layers.BatchNormalization)]  # fmt: skip
    assert norms
    assert not any(layer.trainable for layer in norms)


def test_names_of_networks_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()  # a folder of keras-hub has other files
    for name in ("small_resnet", "ResNet50", "presets", "hf://user/model"):
        assert not is_trained_model(name)


def test_a_model_outside_a_run_goes_on(going_on, tmp_path):
    model = retrieval_model(small_resnet((4,)), 5)
    model.save(tmp_path / "mine.keras")
    settings = dataclasses.replace(
        going_on, backbone=str(tmp_path / "mine.keras"), units=5
    )
    np.testing.assert_allclose(
        build_encoder(settings)(images()), model(images()), atol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "imagenet"}, "without `weights`"),
        ({"precision": "mixed_float16"}, "precision='float32', in which"),
        ({"pooling": "max"}, "pooling='gem', that of the model"),
        ({"backbone": "nowhere.keras"}, "Received: 'nowhere.keras'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(going_on, changes, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(dataclasses.replace(going_on, **changes))


def test_what_cannot_be_trained_is_refused(going_on, finished_run, tmp_path):
    exported = dataclasses.replace(going_on, backbone=str(finished_run.saved_model))
    with pytest.raises(ValueError, match=r"only embeds\. Give the run folder"):
        build_encoder(exported)
    x = keras.Input((32, 32, 3))
    fixed = keras.Model(x, keras.layers.Conv2D(4, 3, activation="relu")(x))
    retrieval_model(fixed, 8).save(tmp_path / "fixed.keras")
    fixed = dataclasses.replace(going_on, backbone=str(tmp_path / "fixed.keras"))
    with pytest.raises(ValueError, match="image_size=16 for images of 32 x 32"):
        build_encoder(fixed)
    path = shutil.copytree(finished_run.folder, tmp_path / "damaged")
    (path / "model.keras").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"whole `\.keras` file"):
        build_encoder(dataclasses.replace(going_on, backbone=str(path)))


def test_a_command_says_what_it_cannot_go_on_from(finished_run, tmp_path):
    message = fail(
        "train", "--backbone", finished_run.saved_model, "--run-dir", tmp_path / "run"
    )
    assert "an exported model, which only embeds" in message
    assert not (tmp_path / "run").exists()


def test_a_version_tells_no_folder_of_its_backbone():
    settings = RunSettings(backbone="/home/me/runs/photos")
    assert portable(settings).backbone == "photos"
    assert portable(RunSettings()).backbone == "small_resnet"
