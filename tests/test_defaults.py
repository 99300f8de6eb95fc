"""Settings that are left to the network: pretrained weights get gentler ones."""

import dataclasses

import keras
import pytest

from keras_aploss import RunSettings, retrieval_model
from keras_aploss.models import native_image_size, small_resnet
from keras_aploss.runs.defaults import is_pretrained, with_defaults, with_image_size


def model_of_size(side):
    x = keras.Input((side, side, 3))
    return retrieval_model(keras.Model(x, keras.layers.Conv2D(2, 3)(x)))


def tokens():
    x = keras.Input((32, 32, 3))
    y = keras.layers.Conv2D(2, 8, 8)(x)
    y = keras.layers.Reshape((16, 2))(y)
    return retrieval_model(keras.Model(x, y), num_prefix_tokens=0)


def chosen(settings, model):
    settings = with_defaults(settings, model)
    return settings.image_size, settings.learning_rate, settings.epochs


def test_each_kind_of_network_gets_its_own():
    any_size = retrieval_model(small_resnet((2,)))
    random = RunSettings(backbone="ResNet50")
    assert chosen(RunSettings(), any_size) == (64, 2e-3, 12)
    assert chosen(random, any_size) == (64, 2e-3, 12)
    pretrained = random.replace(weights="imagenet")
    assert chosen(pretrained, any_size) == (224, 3e-4, 8)
    assert chosen(pretrained.replace(units=0), any_size) == (224, 1e-4, 8)
    larger = pretrained.replace(backbone="EfficientNetV2S")
    assert chosen(larger, any_size)[0] == native_image_size("EfficientNetV2S") == 384
    preset = RunSettings(backbone="dinov2_small")
    assert chosen(preset, tokens()) == (32, 3e-5, 8)  # the size it is built for


def test_what_is_asked_for_stays():
    asked = RunSettings(
        weights="imagenet", backbone="ResNet50", image_size=96, learning_rate=1.0,
        epochs=1,
    )  # fmt: skip
    model = retrieval_model(small_resnet((2,)))
    assert with_defaults(asked, model) == asked
    partly = dataclasses.replace(asked, epochs=0)
    assert chosen(partly, model) == (96, 1.0, 8)


@pytest.mark.parametrize(
    ("backbone", "weights", "wanted"),
    [
        ("small_resnet", "", False),
        ("efficientnet_lite0", "", False),
        ("small_resnet", "backbone.weights.h5", True),
        ("efficientnet_lite0", "imagenet", True),
        ("dinov2_small", "", True),
        ("runs/photos", "", True),
    ],
)
def test_pretrained_is_what_begins_with_trained_weights(backbone, weights, wanted):
    assert is_pretrained(RunSettings(backbone=backbone, weights=weights)) == wanted


def test_going_on_from_a_run_keeps_its_image_size(tmp_path):
    RunSettings(image_size=48).save(tmp_path / "settings.json")
    (tmp_path / "model.keras").touch()
    again = RunSettings(backbone=str(tmp_path))
    assert with_image_size(again).image_size == 0  # not known from the name
    model = retrieval_model(small_resnet((2,)))
    assert with_image_size(again, model).image_size == 48
    assert with_image_size(again, model_of_size(40)).image_size == 40
