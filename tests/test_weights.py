"""Files of weights of Keras: what does not fit is told by names and shapes."""

import keras
import numpy as np
import pytest

from keras_aploss import retrieval_model
from keras_aploss.models import efficientnet_lite, small_resnet
from keras_aploss.models.weights import load_weights


def network(*filters):
    keras.utils.set_random_seed(len(filters))
    x = images = keras.Input((None, None, 3))
    for i, count in enumerate(filters):
        x = keras.layers.Conv2D(count, 3, name=f"block{i}_conv")(x)
    return keras.Model(images, x, name="net")


def write(model, path):
    """In the format of the name: all of them are saved by Keras itself."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


FORMATS = ["a.weights.h5", "a.keras", "a.h5"]


@pytest.mark.parametrize("name", FORMATS)
def test_weights_of_the_same_network_are_loaded(name, tmp_path):
    source, target = network(4, 5), network(4, 5, 6)
    target = keras.Model(target.input, target.get_layer("block1_conv").output)
    load_weights(target, write(source, tmp_path / name))
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_layers_that_do_not_fit_are_named(name, tmp_path):
    path = write(network(4, 5, 6), tmp_path / name)
    with pytest.raises(ValueError, match="of another network") as caught:
        load_weights(network(4, 7, 6), path)
    message = str(caught.value)
    assert "block0_conv" not in message
    ours, theirs = "3x3x4x7 and 7", "3x3x4x5 and 5"
    assert f"'block1_conv' is of {ours}, and 'block1_conv' of the file of {theirs}" in (
        message
    )
    assert "'block2_conv' is of 3x3x7x6 and 6" in message
    assert message.startswith("Expected the weights of net without its top.")


@pytest.mark.parametrize("name", FORMATS)
def test_of_many_the_first_are_named_and_the_others_counted(name, tmp_path):
    path = write(network(4), tmp_path / name)
    with pytest.raises(ValueError, match="of another network") as caught:
        load_weights(network(4, 5, 6, 7, 8, 9), path)
    message = str(caught.value)
    assert "it has no weights for 'block1_conv' of 3x3x4x5 and 5" in message
    assert "'block4_conv'" not in message
    assert "; and 2 more." in message


def test_a_file_with_the_classifier_is_refused_or_its_top_left_out(tmp_path, caplog):
    base = network(4)
    x = keras.layers.GlobalMaxPooling2D()(base.output)
    whole = keras.Model(base.input, keras.layers.Dense(10, name="predictions")(x))
    # Keras looks for layers by their number in files of Keras 2, else by their class.
    with pytest.raises(ValueError, match="network has no layer for 'predictions'"):
        load_weights(base, write(whole, tmp_path / "a.h5"))
    load_weights(base, write(base, tmp_path / "b.keras"))
    assert "are taken" not in caplog.text
    load_weights(base, write(whole, tmp_path / "a.keras"))
    assert "the network has no layer for 'predictions' of 4x10 and 10" in caplog.text


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.weights.h5", b"no HDF5", "which cannot be read"),
        ("a.keras", b"no archive", "which cannot be read"),
        ("a.npz", b"", r"one of \.weights\.h5, \.h5, \.keras"),
        ("nowhere.h5", None, "which is not a file"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(name, contents, message, tmp_path):
    path = tmp_path / name
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load_weights(network(4), path)


@pytest.mark.parametrize(
    "backbone",
    [
        "small_resnet",
        pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("VGG16", marks=pytest.mark.slow),
    ],
)
def test_named_backbones_say_what_does_not_fit(backbone, tmp_path):
    path = write(small_resnet((4,)), tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"Expected the weights of \w+ without"):
        retrieval_model(backbone, weights=str(path))


def test_weights_that_there_are_none_of_are_told(tmp_path):
    with pytest.raises(ValueError, match="'efficientnet_lite0'"):
        retrieval_model("small_resnet", weights="imagenet")
    with pytest.raises(ValueError, match="which is not a file"):
        efficientnet_lite(weights=str(tmp_path / "nowhere.pt"))
