"""Backbones by name, with the scaling of pixels that each was trained with."""

import inspect
from types import ModuleType

import keras

from keras_aploss.models.efficientnet_lite import VERSIONS, efficientnet_lite
from keras_aploss.models.hub import hub_preset
from keras_aploss.models.resnet import small_resnet


def named_backbone(name, weights):
    """The model, and the function that scales pixels as it was trained with."""
    if name == "small_resnet":
        model = small_resnet()
        if weights is not None:
            model.load_weights(weights)
        return model, lambda images: images
    if name in VERSIONS:
        return efficientnet_lite(name, weights=weights), lambda images: images
    # Not `callable`: the attributes of any module are, such as `__class__`.
    application = vars(keras.applications).get(name)
    if not inspect.isfunction(application):
        preset = hub_preset(name, weights)
        if preset is not None:
            return preset
        raise ValueError(
            "Expected `backbone` to be 'small_resnet', a class of `keras.applications` "
            "such as 'ResNet50', a preset of keras-hub such as 'dinov2_small' (pip "
            'install "keras_aploss[hub]") or a folder that holds one, or a keras.Model.'
            f" Received: backbone={name!r}."
        )
    if name.startswith("NASNet"):
        raise ValueError(
            "Expected a backbone for images of any size. Received: "
            f"backbone={name!r}, whose layers depend on the size of the image. "
            "Choose another, such as 'EfficientNetV2B0'."
        )
    modules = [
        module
        for module in vars(keras.applications).values()
        if isinstance(module, ModuleType) and hasattr(module, name)
    ]
    # MobileNetV3 stands in no module: its preprocessing is part of the network.
    preprocess = modules[0].preprocess_input if modules else lambda images: images
    model = application(include_top=False, weights=weights, input_shape=(None, None, 3))
    return model, preprocess


def is_architecture(name: str) -> bool:
    """Whether a backbone is the name of a network that has random weights by itself."""
    is_class = inspect.isfunction(vars(keras.applications).get(name))
    return name == "small_resnet" or name in VERSIONS or is_class
