"""Backbones of keras-hub: presets, image encoders, and images of other sizes.

A backbone of keras-hub is made for its own task: that of CLIP gives logits of images
and texts, that of a vision transformer tokens, of which some are no patches, for images
of one size. Here it becomes a model from images to one feature map `(B, h, w, C)` or to
tokens `(B, T, C)`, together with what is known of it.

keras-hub is the extra `hub`; it is imported only where a preset is named.
"""

import json
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_aploss.layers import SavedPositions
from keras_aploss.models.weights import check_file, load_weights

# Presets of texts and sounds are refused before they are downloaded.
IMAGE_BACKBONES = (
    "CLIPBackbone", "CSPNetBackbone", "DINOV2Backbone", "DINOV3Backbone",
    "DeiTBackbone", "DenseNetBackbone", "EfficientNetBackbone", "HGNetV2Backbone",
    "MetaCLIP2Backbone", "MiTBackbone", "MobileNetBackbone", "MobileNetV5Backbone",
    "ResNetBackbone", "SigLIPBackbone", "SwinTransformerBackbone", "VGGBackbone",
    "ViTBackbone", "XceptionBackbone",
)  # fmt: skip
# keras-hub (0.32) cannot make the layers of these from their own configuration.
SAVED_WHOLE = (
    "DeiTBackbone", "MiTBackbone", "SwinTransformerBackbone", "ViTBackbone",
)  # fmt: skip
# Beside the `config.json` of a preset of keras-hub, and of a checkout of Hugging Face.
CONVERTER, PROCESSOR = "image_converter.json", "preprocessor_config.json"


def hub_preset(
    name: str, weights: str | None
) -> tuple[keras.Model, Callable[[Any], Any]] | None:
    """The backbone of a preset and its scaling of pixels; None for other names.

    Args:
        name: the name of a preset of keras-hub, a handle such as `"hf://user/model"`,
            or a folder with a `config.json`: of `save_to_preset`, or a checkout of
            Hugging Face or timm.
        weights: None for the preset's own, or a file of weights of Keras.

    Raises:
        ImportError: without keras-hub, for a folder or a handle.
        ValueError: for a preset that is none of images, that cannot be had, or whose
            scaling of pixels is not known.
    """
    is_folder, is_handle = os.path.isdir(name), "://" in name
    # keras-hub takes seconds to import: not for each misspelt name.
    if not (is_folder or is_handle or re.fullmatch(r"[a-z0-9]+(_[a-z0-9.]+)+", name)):
        return None
    try:
        import keras_hub
    except ImportError as error:
        if not (is_folder or is_handle):
            return None
        raise ImportError(
            f"Expected keras-hub, which reads {name!r}. Received: {error}. Install it: "
            'pip install "keras_aploss[hub]"'
        ) from error
    if not (is_folder or is_handle):
        if name not in keras_hub.models.Backbone.presets:
            return None
        _check_images(name, keras_hub)
    if weights == "imagenet":
        raise ValueError(
            "Expected a preset of keras-hub without `weights`, as it has its own, or a "
            f"file. Received: weights='imagenet' for {name!r}."
        )
    if weights is not None:
        check_file(weights)
    try:
        scale, offset = _pixel_scaling(name, keras_hub)
        backbone = keras_hub.models.Backbone.from_preset(
            name, load_weights=weights is None
        )
    # Whatever the network, a registry or a broken file makes Keras raise.
    except Exception as error:
        raise ValueError(_no_preset(name, error, keras_hub)) from error
    if weights is not None:
        load_weights(backbone, weights)
    return backbone, layers.Rescaling(scale, offset, name="pixel_scaling")


def _check_images(name, hub):
    classes = (getattr(hub.models, kind, None) for kind in IMAGE_BACKBONES)
    if not any(kind is not None and name in kind.presets for kind in classes):
        families = ", ".join(kind.removesuffix("Backbone") for kind in IMAGE_BACKBONES)
        raise ValueError(
            f"Expected a preset that embeds images, of {families}. Received: {name!r}."
        )


def _no_preset(name, error, hub):
    """What was tried, and how to bring a preset by hand."""
    problem = f"{type(error).__name__}: {error}".rstrip(".")
    if os.path.isdir(name):
        return (
            "Expected a folder of `save_to_preset` with its image converter, or a "
            f"checkout of Hugging Face. Received: {name!r}, which cannot be read: "
            f"{problem}."
        )
    preset = hub.models.Backbone.presets.get(name, {})
    return (
        "Expected a preset that can be downloaded. Received: "
        f"{name!r}, tried as {preset.get('kaggle_handle', name)!r}: {problem}. Without "
        "a network, bring it by hand: on a machine with one, run\n"
        f"  import keras_hub; name, folder = {name!r}, 'preset'\n"
        "  keras_hub.models.Backbone.from_preset(name).save_to_preset(folder)\n"
        "  keras_hub.layers.ImageConverter.from_preset(name).save_to_preset(folder)\n"
        "copy the folder, and give its path as the backbone."
    )


def _pixel_scaling(name, hub):
    """Scale and offset of pixels of 0-255, each a number or one for each channel."""
    path = pathlib.Path(name)
    if (path / CONVERTER).is_file():
        config = json.loads((path / CONVERTER).read_text(encoding="utf-8"))
        converter = keras.saving.deserialize_keras_object(config)
    elif (path / PROCESSOR).is_file():
        return _of_hugging_face(json.loads((path / PROCESSOR).read_text("utf-8")))
    elif (path / "config.json").is_file() and "registered_name" in json.loads(
        (path / "config.json").read_text(encoding="utf-8")
    ):
        raise FileNotFoundError(
            f"no {CONVERTER}, which says how pixels of 0-255 are scaled. Write the "
            "preset's own, `keras_hub.layers.ImageConverter.from_preset(name)"
            ".save_to_preset(folder)`, or one of yours, such as "
            "`keras_hub.layers.ImageConverter(scale=1 / 255).save_to_preset(folder)`"
        )
    else:
        converter = hub.layers.ImageConverter.from_preset(name)
    if converter is None:
        raise FileNotFoundError(
            f"no {PROCESSOR}, which says how pixels of 0-255 are scaled, can be read. "
            "Download all files of the model, and give the folder"
        )
    return (
        1.0 if converter.scale is None else converter.scale,
        0.0 if converter.offset is None else converter.offset,
    )


def _of_hugging_face(config):
    """Scale and offset of `(pixel * rescale_factor - mean) / std`."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", 1) else 1
    if not config.get("do_normalize", True):
        return factor, 0.0
    mean, std = config["image_mean"], config["image_std"]
    offset = [-one / other for one, other in zip(mean, std, strict=True)]
    return [factor / one for one in std], offset


def is_hub_backbone(model: Any) -> bool:
    """Whether a model is a backbone of keras-hub.

    Raises:
        ValueError: if it is a task of keras-hub, which has one.
    """
    hub = sys.modules.get("keras_hub")  # imported by whoever has such a model
    if hub is not None and isinstance(model, hub.models.Task):
        raise ValueError(
            f"Expected a backbone of keras-hub. Received: {model.name!r}, a task. Give "
            "its `backbone`."
        )
    return hub is not None and isinstance(model, hub.models.Backbone)


def image_features(
    backbone: keras.Model, image_size: int | None
) -> tuple[keras.Model, int | None]:
    """A model from images to features, and its number of tokens before the patches.

    Args:
        backbone: a backbone of keras-hub.
        image_size: side of the images, for a backbone of one size: its positions are
            interpolated.

    Returns:
        The model, and the number of tokens (None if it is not known, or if the model
        gives feature maps).

    Raises:
        ValueError: if the backbone does not take images of this size.
    """
    encoder = getattr(backbone, "vision_encoder", None) or backbone
    if len(encoder.inputs) > 1 or len(encoder.inputs[0].shape) != 4:
        return encoder, None  # none of images
    encoder = _of_size(encoder, image_size)
    prefix = _num_prefix_tokens(encoder)
    if _is_a(encoder, *SAVED_WHOLE):
        _check_not_partly_frozen(encoder)
        return encoder, prefix
    output = encoder.output
    if _is_a(encoder, "SigLIPVisionEncoder"):
        output = encoder.post_layer_norm.output  # before the head that pools tokens
    elif _is_a(encoder, "HGNetV2Backbone"):
        output = output[list(output)[-1]]  # the last of its stages
    model = keras.Model(encoder.inputs[0], output, name=encoder.name)
    if _is_a(encoder, "DINOV2Backbone"):
        model = keras.models.clone_model(
            model,
            clone_function=lambda layer: (
                SavedPositions(layer, name=layer.name)
                if layer is encoder.embeddings
                else layer
            ),
        )
    return model, prefix


def _check_not_partly_frozen(encoder):
    frozen = [layer.name for layer in encoder.layers if not layer.trainable]
    if encoder.trainable and frozen:
        raise ValueError(
            f"Expected {encoder.name!r} to be trained or frozen as a whole, which is "
            f"what a file of its class can say. Received: frozen layers {frozen}. Set "
            "`backbone.trainable`, or freeze them in the model that you get."
        )


def _is_a(model, *names):
    """Whether the class is one of keras-hub's, by names that old versions may lack."""
    return any(kind.__name__ in names for kind in type(model).__mro__)


def _num_prefix_tokens(encoder):
    if _is_a(encoder, "DINOV2Backbone", "DINOV3Backbone"):
        return 1 + encoder.num_register_tokens
    if _is_a(encoder, "ViTBackbone"):
        return int(encoder.use_class_token)
    if _is_a(encoder, "DeiTBackbone"):
        return 2  # the class token and that of the distillation
    if _is_a(encoder, "CLIPVisionEncoder", "MetaCLIP2VisionEncoder"):
        return 1
    if _is_a(encoder, "SigLIPVisionEncoder", "SwinTransformerBackbone"):
        return 0
    return None


def _of_size(encoder, size):
    """The encoder for images of another size, with interpolated positions."""
    shape = tuple(encoder.inputs[0].shape[1:])
    if None in shape[:2]:
        return encoder
    size = shape[:2] if size is None else (size, size)
    config = {"image_shape": (*size, 3)}
    if _is_a(encoder, "DINOV2Backbone"):
        # It saves the positions of its training, of this size, and not those in use.
        config["position_embedding_shape"] = config["image_shape"]
    old = encoder.get_config()
    if "image_shape" not in old:
        config["input_shape"] = config.pop("image_shape")  # EfficientNet
    if all(tuple(old[key]) == value for key, value in config.items()):
        return encoder
    patch = _patch_size(encoder)
    _check_patches(encoder, size, patch)
    try:
        resized = type(encoder).from_config(old | config)
    except Exception as error:
        raise ValueError(
            f"Expected an `image_size` that {encoder.name!r} takes; it was built for "
            f"{shape[0]} x {shape[1]}. Received: {size[0]} x {size[1]}: {error}"
        ) from error
    _copy_weights(encoder, resized, [side // patch for side in shape[:2]])
    for ours, theirs in zip(resized.layers, encoder.layers, strict=True):
        if not theirs.trainable:
            ours.trainable = False
    return resized


def _check_patches(encoder, size, patch):
    for side in size:
        if side % patch or side < patch:
            below = side // patch * patch
            raise ValueError(
                f"Expected `image_size` to be a multiple of {patch}, the side of a "
                f"patch of {encoder.name!r}. Received: {side}; the nearest are "
                f"{' and '.join(str(n) for n in (below, below + patch) if n)}."
            )


def _patch_size(encoder):
    patch = getattr(encoder, "patch_size", 1)
    return int(patch[0] if isinstance(patch, tuple | list) else patch)


def _copy_weights(source, target, grid):
    """Copy weights to an encoder for images of another size.

    `grid` is the number of rows and columns of patches of the source.
    """
    is_dinov2 = _is_a(source, "DINOV2Backbone")
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        if ours.shape == theirs.shape:
            ours.assign(ops.copy(theirs.value))  # JAX gives a buffer away once
        elif "int" in str(ours.dtype):  # the numbers of the positions, (1, T)
            ours.assign(np.arange(ours.shape[-1]).reshape(ours.shape))
        elif not is_dinov2:
            ours.assign(_interpolated(ops.convert_to_numpy(theirs), ours.shape, grid))
    if is_dinov2:
        _copy_positions(source.embeddings, target.embeddings)


def _copy_positions(source, target):
    """Copy the positions of DINOv2, which are there twice: as trained, and as used."""
    positions = source.interpolated_position_embeddings.value
    if source.image_shape != target.image_shape:
        source.save_own_variables({})  # brings those as trained up to date
        grid = [side // source.patch_size for side in source.position_embedding_shape]
        positions = _interpolated(
            ops.convert_to_numpy(source.position_embeddings),
            target.position_embeddings.shape,
            grid,
        )
    target.position_embeddings.assign(ops.copy(positions))
    target.interpolated_position_embeddings.assign(ops.copy(positions))


def _interpolated(positions, shape, grid):
    """Positions `(.., prefix + h * w, C)` for another grid, by bicubic interpolation.

    The tokens before the patches keep theirs.
    """
    rows, columns = grid
    channels = positions.shape[-1]
    positions = positions.reshape(-1, channels)
    prefix = len(positions) - rows * columns
    side = round((shape[-2] - prefix) ** 0.5)
    patches = ops.image.resize(
        positions[None, prefix:].reshape(1, rows, columns, channels),
        (side, side),
        interpolation="bicubic",
        data_format="channels_last",
    )
    patches = ops.convert_to_numpy(patches).reshape(-1, channels)
    return np.concatenate([positions[:prefix], patches]).reshape(shape)
