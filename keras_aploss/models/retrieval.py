"""The retrieval model: an image in, a unit-length embedding out.

    images ─ preprocessing ─ backbone ─ pooling ─ projection ─ L2 [─ whitening ─ L2]

A plain functional `keras.Model`: training, saving, `summary()` and export are Keras's
own. Preprocessing is inside, so that nobody who serves the model can get it wrong.

Dimension key: ``B`` batch, ``H, W`` height and width of the images, ``h, w, C`` of the
feature map, ``D`` units of the embedding.
"""

import logging

import keras
import numpy as np
from keras import layers

from keras_aploss.layers import (
    ClassToken,
    GeneralizedMeanPooling2D,
    PatchTokens,
    PCAWhitening,
)
from keras_aploss.models.backbones import named_backbone
from keras_aploss.models.channels import channels_last, check_channels_last
from keras_aploss.models.continued import embedding_before_unit_length, trained_parts
from keras_aploss.models.hub import image_features, is_hub_backbone
from keras_aploss.models.plain import freeze_normalization, of_plain_layers
from keras_aploss.models.signs import ends_in_relu

logger = logging.getLogger(__name__)

POOLING = ("average", "cls", "cls+gem", "gem", "max")


@channels_last()
def retrieval_model(
    backbone: str | keras.Model = "small_resnet",
    units: int | None = None,
    *,
    pooling: str = "gem",
    num_prefix_tokens: int | None = None,
    image_size: int | None = None,
    whitening: bool | PCAWhitening = False,
    weights: str | None = None,
    freeze_batch_norm: bool | None = None,
    name: str = "retrieval_model",
) -> keras.Model:
    """Build the model of the paper around a backbone.

    Images are `(B, H, W, 3)` even where `keras.json` says `channels_first`: that is how
    they are read, exported and served, and the model is built for it.

    Args:
        backbone: `"small_resnet"` (ours, trains on a CPU in minutes); the name of a
            class of `keras.applications`, such as `"ResNet50"` (NASNet is built for one
            `image_size`); a preset of keras-hub (the extra `hub`), such as
            `"dinov2_small"`, or a folder that holds one; a backbone of keras-hub, of
            which the image encoder is taken; a trained retrieval model, to go on from
            (its projection too, unless `units` is another; not its whitening); or any
            `keras.Model` from images `(B, H, W, 3)` of 0-255 to a feature map
            `(B, h, w, C)` or to tokens `(B, T, C)`.
        units: size `D` of the embedding, made by a projection with bias after the
            pooling; None leaves the projection out (`D = C`).
        pooling: `"gem"`, `"average"` or `"max"` of the feature map or of the patches
            (unless the backbone ends in a ReLU, GeM pools values of both signs);
            of a transformer also `"cls"`, its class token, or `"cls+gem"`, the class
            token and the GeM of the patches, each of unit length, side by side
            (`D = 2 C` without projection).
        num_prefix_tokens: for a backbone that gives tokens, how many stand before those
            of the patches: the class token (the first) and registers; 0 for none. None:
            known for keras-hub's.
        image_size: side of the images, for a backbone that is built for one size. The
            positions of keras-hub's transformers are interpolated for it. None: the
            size that the backbone was built for. One for images of any size stays so.
        whitening: append a `PCAWhitening` layer, named `"whitening"`, and a second
            normalization; give a layer to choose its settings (and name it). It
            changes nothing until its `adapt()` is called after training.
        weights: only for a named backbone: None (random, but the own weights of a
            preset of keras-hub), `"imagenet"` (downloaded by Keras), or a file of
            weights of the backbone without its top.
        freeze_batch_norm: keep batch normalization at its stored statistics, which
            small or class-balanced batches would spoil. None: frozen for pretrained
            backbones (`weights`, a preset, or a model of yours, whose layers this
            changes), trained for a named backbone with random weights. What is frozen
            is so in a saved and loaded model, too: of a backbone with a class of its
            own, as those of keras-hub, only the layers are used, and those that hold
            batch normalization inside run in `keras_aploss.layers.InferenceMode`.
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(B, H, W, 3)`, uint8 or float of 0-255,
        RGB, to float32 embeddings `(B, D)` of unit length. Images have any size, or the
        one that `model.input_shape` tells, if the backbone takes only one.

    Raises:
        ValueError: for an unknown backbone or pooling, a preset that cannot be had,
            `units` below 1, an `image_size` that the backbone does not take, or a
            backbone that ends in neither one feature map nor tokens.
        ImportError: the package that holds the backbone or its weights is missing.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import retrieval_model
    >>> model = retrieval_model("small_resnet", units=16)
    >>> embeddings = model.predict(np.zeros((2, 48, 64, 3), "uint8"), verbose=0)
    >>> embeddings.shape
    (2, 16)
    >>> np.linalg.norm(embeddings, axis=1).round(4)
    array([1., 1.], dtype=float32)
    """
    _check_arguments(backbone, units, pooling, image_size, whitening, weights)
    parts = None if isinstance(backbone, str) else trained_parts(backbone)
    if parts:
        _image_shape(backbone, image_size)  # or the reason why not
        if freeze_batch_norm is not False:
            parts = parts._replace(pooled=freeze_normalization(parts.pooled))
        images = parts.pooled.input
        x = embedding_before_unit_length(parts, units, pooling)
    else:
        images, x = _pooled_features(
            backbone, weights, pooling, image_size, num_prefix_tokens, freeze_batch_norm
        )  # (B, C)
        if units is not None:
            x = layers.Dense(int(units), name="projection")(x)  # (B, D)
    # In float32 whatever the policy: 16-bit lengths are off by a percent.
    x = layers.UnitNormalization(name="embedding", dtype="float32")(x)
    if whitening:
        if whitening is True:
            whitening = PCAWhitening(name="whitening", dtype="float32")
        x = whitening(x)
        x = layers.UnitNormalization(name="whitened_embedding", dtype="float32")(x)
    return keras.Model(images, x, name=name)


def _pooled_features(
    backbone, weights, pooling, image_size, num_prefix_tokens, freeze_batch_norm
):
    """Images, and the features of a backbone that are pooled of them."""
    pretrained = not isinstance(backbone, str) or weights is not None
    preprocess = None
    if isinstance(backbone, str):
        backbone, preprocess = named_backbone(backbone, weights, image_size)
    check_channels_last(backbone)
    if is_hub_backbone(backbone):
        pretrained = True  # a preset, or a model of yours
        backbone, known = image_features(backbone, image_size)
        num_prefix_tokens = known if num_prefix_tokens is None else num_prefix_tokens
    else:
        backbone = of_plain_layers(backbone)
    images = keras.Input(_image_shape(backbone, image_size), name="images")
    if freeze_batch_norm or (freeze_batch_norm is None and pretrained):
        backbone = freeze_normalization(backbone)
    x = images if preprocess is None else preprocess(images)  # (B, H, W, 3)
    return images, _pooling(backbone, backbone(x), pooling, num_prefix_tokens)


def _image_shape(backbone, image_size):
    """The shape of the images that a backbone takes: of one size, or of any."""
    inputs = getattr(backbone, "inputs", None) or []
    if not inputs:  # it is built when it is called
        return (None, None, 3)
    shape = tuple(inputs[0].shape[1:])
    if len(inputs) > 1 or len(shape) != 3 or shape[2] not in (None, 3):
        shapes = {x.name: tuple(x.shape) for x in inputs}
        raise ValueError(
            "Expected a backbone with one input, images (B, H, W, 3). Received: "
            f"{backbone.name!r} with the inputs {shapes}. Give the part of it that "
            "embeds images."
        )
    if image_size is not None and not {*shape[:2]} <= {None, image_size}:
        raise ValueError(
            f"Expected an `image_size` for which {backbone.name!r} is built. Received: "
            f"image_size={image_size} for images of {shape[0]} x {shape[1]}. Build it "
            "for another shape of its input, or leave `image_size` out."
        )
    return (*shape[:2], 3)


def _pooling(backbone, features, pooling, num_prefix_tokens):
    """Pool a feature map `(B, h, w, C)` or tokens `(B, T, C)` to `(B, C)`."""
    _check_features(backbone, features)
    is_map = len(features.shape) == 4
    if is_map and num_prefix_tokens:
        raise ValueError(
            "Expected `num_prefix_tokens` for a backbone that gives tokens. Received: "
            f"num_prefix_tokens={num_prefix_tokens} for {backbone.name!r}, which gives "
            f"a feature map {tuple(features.shape)}."
        )
    if not is_map and num_prefix_tokens is None:
        raise ValueError(
            "Expected `num_prefix_tokens` for a backbone that gives tokens: how many "
            "stand before those of the patches, such as 1 for a class token, 0 for "
            f"none. Received: num_prefix_tokens=None for {backbone.name!r} with tokens "
            f"{tuple(features.shape)}."
        )
    if pooling.startswith("cls") and not num_prefix_tokens:
        raise ValueError(
            f"Expected a backbone with a class token for pooling={pooling!r}. "
            f"Received: {backbone.name!r}, which has none. Choose 'gem' or 'average'."
        )
    if pooling == "cls":
        return ClassToken(name="pooling")(features)
    patches = features
    if not is_map:
        patches = PatchTokens(num_prefix_tokens, name="patches")(features)
    pooled = _global_pooling(backbone, pooling.removeprefix("cls+"))(patches)
    if pooling != "cls+gem":
        return pooled
    # Of unit length each: neither part outweighs the other.
    parts = ClassToken(name="class_token")(features), pooled
    return layers.Concatenate(name="class_token_and_patches")(
        [layers.UnitNormalization(dtype="float32")(part) for part in parts]
    )


def _global_pooling(backbone, pooling):
    """The pooling layer; GeM must not lose half of a map that has negative values."""
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="pooling")
    if pooling == "average":
        return layers.GlobalAveragePooling2D(name="pooling")
    signed = not ends_in_relu(backbone)
    if signed:
        logger.info(
            "%s does not end in a ReLU: GeM pools positive and negative values, each "
            "by themselves (`GeneralizedMeanPooling2D(signed=True)`).",
            backbone.name,
        )
    return GeneralizedMeanPooling2D(signed=signed, name="pooling")


def _check_features(backbone, features):
    if isinstance(features, dict | list | tuple) and len(features) != 1:
        named = features if isinstance(features, dict) else dict(enumerate(features))
        shapes = {key: tuple(getattr(x, "shape", ())) for key, x in named.items()}
        key = next(reversed(shapes))
        raise ValueError(
            f"Expected a backbone with one output. Received: {backbone.name!r} with "
            f"{shapes}. Choose one of them, such as "
            f"`keras.Model(backbone.inputs, backbone.output[{key!r}])`."
        )
    rank = len(getattr(features, "shape", ()))
    layer = _layer_of_features(backbone) if rank == 2 else None
    if layer is not None:
        raise ValueError(
            "Expected a backbone that ends in one feature map (B, h, w, C), or in "
            f"tokens (B, T, C). Received: {backbone.name!r}, whose output is "
            f"{tuple(features.shape)}. Give it up to the layer with the features, "
            f"{tuple(layer.output.shape)}: `keras.Model(model.input, "
            f"model.get_layer({layer.name!r}).output)`."
        )
    if rank not in (3, 4):
        raise ValueError(
            "Expected a backbone that ends in one feature map (B, h, w, C), or in "
            f"tokens (B, T, C). Received: {backbone.name!r} with output {features}. "
            "Take it without its classifier and without pooling: `include_top=False` "
            "in keras.applications."
        )


def _layer_of_features(model):
    """The last layer of a model that gives a feature map, or else tokens."""
    of_rank = {}
    for layer in getattr(model, "layers", []):
        shape = getattr(getattr(layer, "output", None), "shape", ())
        # Not the input, nor a map of one pixel, which is pooled already.
        if not isinstance(layer, layers.InputLayer) and shape[1:3] != (1, 1):
            of_rank[len(shape)] = layer
    return of_rank.get(4, of_rank.get(3))


def _check_arguments(backbone, units, pooling, image_size, whitening, weights):
    if pooling not in POOLING:
        raise ValueError(
            f"Expected `pooling` to be one of {list(POOLING)}. Received: {pooling!r}."
        )
    for name, value in {"units": units, "image_size": image_size}.items():
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(
                f"Expected `{name}` to be an integer of at least 1, or None. Received: "
                f"{name}={value!r}."
            )
    if not isinstance(backbone, str | keras.Model):
        raise ValueError(
            "Expected `backbone` to be a name or a keras.Model. Received: "
            f"backbone={backbone!r}."
        )
    if weights is not None and isinstance(backbone, keras.Model):
        raise ValueError(
            "Expected `weights` for a named backbone only. Received: "
            f"weights={weights!r} for a model; load them into it beforehand."
        )
    if not isinstance(whitening, bool | PCAWhitening):
        raise ValueError(
            "Expected `whitening` to be a boolean or a PCAWhitening layer. Received: "
            f"whitening={whitening!r}."
        )
