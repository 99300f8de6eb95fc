"""Backbones by name, with the scaling of pixels that each was trained with."""

from collections.abc import Callable
from typing import Any

import keras

from keras_aploss.models.applications import application, find_application
from keras_aploss.models.efficientnet_lite import VERSIONS, efficientnet_lite
from keras_aploss.models.hub import hub_preset
from keras_aploss.models.resnet import small_resnet
from keras_aploss.models.weights import load_weights


def named_backbone(
    name: str, weights: str | None, image_size: int | None = None
) -> tuple[keras.Model, Callable[[Any], Any]]:
    """The model, and the function that scales pixels as it was trained with.

    Args:
        name: `"small_resnet"`, an EfficientNet-Lite, a class of `keras.applications`,
            or a preset of keras-hub.
        weights: None, `"imagenet"` or a file.
        image_size: side of the images, for a class that is built for one size.

    Raises:
        ValueError: for another name, or weights that cannot be had or do not fit.
    """
    if name == "small_resnet":
        model = small_resnet()
        if weights == "imagenet":
            raise ValueError(
                "Expected 'small_resnet' with random weights or a file. Received: "
                "weights='imagenet', which there are none of. A small network that has "
                "them is 'efficientnet_lite0'."
            )
        if weights is not None:
            load_weights(model, weights)
        return model, _unscaled
    if name in VERSIONS:
        return efficientnet_lite(name, weights=weights), _unscaled
    found = application(name, weights, image_size) or hub_preset(name, weights)
    if found is None:
        raise ValueError(
            "Expected `backbone` to be 'small_resnet', a class of `keras.applications` "
            "such as 'ResNet50', a preset of keras-hub such as 'dinov2_small' (pip "
            'install "keras_aploss[hub]") or a folder that holds one, or a keras.Model.'
            f" Received: backbone={name!r}."
        )
    return found


def _unscaled(images):
    """The pixels as they are: the model scales them itself."""
    return images


def is_architecture(name: str) -> bool:
    """Whether a backbone is the name of a network that has random weights by itself."""
    is_ours = name == "small_resnet" or name in VERSIONS
    return is_ours or find_application(name) is not None
