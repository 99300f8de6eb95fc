"""The retrieval model: an image in, a unit-length embedding out.

    images ─ preprocessing ─ backbone ─ pooling ─ projection ─ L2 [─ whitening ─ L2]

A plain functional `keras.Model`: training, saving, `summary()` and export are Keras's
own. Preprocessing is inside, so that nobody who serves the model can get it wrong.

Dimension key: ``B`` batch, ``H, W`` height and width of the images, ``h, w, C`` of the
feature map, ``D`` units of the embedding.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType

import keras
import numpy as np
from keras import layers

from keras_aploss.layers import GeneralizedMeanPooling2D, PCAWhitening

POOLING = {
    "gem": GeneralizedMeanPooling2D,
    "max": layers.GlobalMaxPooling2D,
    "average": layers.GlobalAveragePooling2D,
}


@contextlib.contextmanager
def _channels_last() -> Iterator[None]:
    """Build layers for images `(B, H, W, 3)`, whatever `keras.json` says."""
    kept = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(kept)


@_channels_last()
def retrieval_model(
    backbone: str | keras.Model = "small_resnet",
    units: int | None = None,
    *,
    pooling: str = "gem",
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
            class of `keras.applications`, such as `"ResNet50"` (not NASNet, which is
            built for one image size); or any `keras.Model`
            from images `(B, H, W, 3)` of 0-255 to a feature map `(B, h, w, C)`.
        units: size `D` of the embedding, made by a projection with bias after the
            pooling; None leaves the projection out (`D = C`).
        pooling: `"gem"`, `"max"` or `"average"`.
        whitening: append a `PCAWhitening` layer, named `"whitening"`, and a second
            normalization; give a layer to choose its settings (and name it). It
            changes nothing until its `adapt()` is called after training.
        weights: only for a named backbone: None (random), `"imagenet"` (downloaded by
            Keras), or a file of weights of the backbone without its top.
        freeze_batch_norm: keep batch normalization at its stored statistics, which
            small or class-balanced batches would spoil. None: frozen for pretrained
            backbones (`weights`, or a model of yours, whose layers this changes),
            trained for a named backbone with random weights. What is frozen is so in a
            saved and loaded model, too: of a backbone with a class of its own, as those
            of keras-hub, only the layers are used.
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(B, H, W, 3)`, uint8 or float of 0-255,
        RGB, of any size, to float32 embeddings `(B, D)` of unit length.

    Raises:
        ValueError: for an unknown backbone or pooling, `units` below 1, a backbone
            that does not end in a feature map, or batch normalization that is to be
            frozen and that its class would build anew, and trained, from a file.

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
    _check_arguments(backbone, units, pooling, whitening, weights)
    pretrained = not isinstance(backbone, str) or weights is not None
    images = keras.Input((None, None, 3), name="images")  # (B, H, W, 3)
    x = images
    if isinstance(backbone, str):
        backbone, preprocess = _named_backbone(backbone, weights)
        x = preprocess(x)
    backbone = _of_plain_layers(backbone)
    if freeze_batch_norm or (freeze_batch_norm is None and pretrained):
        _freeze_batch_norm(backbone)
    x = backbone(x)
    if getattr(x, "shape", None) is None or len(x.shape) != 4:
        raise ValueError(
            "Expected a backbone that ends in one feature map (B, h, w, C). Received: "
            f"{backbone.name!r} with output {x}. Build it with `include_top=False` and "
            "without pooling."
        )
    x = POOLING[pooling](name="pooling")(x)  # (B, C)
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


def _check_arguments(backbone, units, pooling, whitening, weights):
    if pooling not in POOLING:
        raise ValueError(
            f"Expected `pooling` to be one of {sorted(POOLING)}. Received: {pooling!r}."
        )
    if units is not None and (not isinstance(units, int | np.integer) or units < 1):
        raise ValueError(
            "Expected `units` to be an integer of at least 1, or None. Received: "
            f"units={units!r}."
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


@_channels_last()
def small_resnet(
    filters: Sequence[int] = (32, 64, 128), name: str = "small_resnet"
) -> keras.Model:
    """A residual network that trains from random weights on a CPU in minutes.

    A strided convolution, then one residual block for each entry of `filters`, each
    after the first halving the map: a stride of 8 at the end of the default. Pixels of
    0-255 are scaled inside. Batch normalization is trained.

    Args:
        filters: number of filters of each block; the last is `C`.
        name: name of the model.

    Returns:
        A `keras.Model` from images `(B, H, W, 3)` to feature maps
        `(B, h, w, C)`, not negative.

    Example:
    >>> from keras_aploss.models import small_resnet
    >>> small_resnet(filters=(8, 16)).output.shape
    (None, None, None, 16)
    """
    images = keras.Input((None, None, 3), name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = _convolution(x, filters[0], strides=2)
    x = layers.Activation("relu")(x)
    for block, size in enumerate(filters):
        strides = 1 if block == 0 else 2
        shortcut = x
        if strides > 1 or size != x.shape[-1]:
            # Average pooling before the 1x1 convolution drops no activation.
            shortcut = layers.AveragePooling2D(strides, padding="same")(x)
            shortcut = _convolution(shortcut, size, kernel_size=1)
        x = layers.Activation("relu")(_convolution(x, size, strides=strides))
        x = layers.add([_convolution(x, size), shortcut])
        x = layers.Activation("relu")(x)
    return keras.Model(images, x, name=name)


def _convolution(x, filters, kernel_size=3, strides=1):
    x = layers.Conv2D(
        filters, kernel_size, strides, padding="same", use_bias=False,
        kernel_initializer="he_normal",
    )(x)  # fmt: skip
    return layers.BatchNormalization(momentum=0.9)(x)


def _named_backbone(name, weights):
    """The model, and the function that scales pixels as it was trained with."""
    if name == "small_resnet":
        model = small_resnet()
        if weights is not None:
            model.load_weights(weights)
        return model, lambda images: images
    # Not `callable`: the attributes of any module are, such as `__class__`.
    application = vars(keras.applications).get(name)
    if not inspect.isfunction(application):
        raise ValueError(
            "Expected `backbone` to be 'small_resnet', a class of `keras.applications` "
            f"such as 'ResNet50', or a keras.Model. Received: backbone={name!r}."
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


def _of_plain_layers(model):
    """A model of the same layers whose file says of each whether it is frozen.

    The class of a backbone of keras-hub builds all layers anew when it is loaded.
    """
    if _is_plain(model) or not getattr(model, "inputs", None):
        return model
    return keras.Model(model.input, model.output, name=model.name)


def _is_plain(model):
    """Whether a file of the model holds a configuration for each of its layers."""
    x = keras.Input((1,))
    functional = type(keras.Model(x, x + 1.0))  # a class that Keras does not export
    return type(model) in (keras.Sequential, functional)


def _freeze_batch_norm(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _freeze_batch_norm(layer)
            continue
        is_batch_norm = isinstance(layer, layers.BatchNormalization)
        if is_batch_norm and (_is_plain(model) or not layer.trainable):
            layer.trainable = False
        elif is_batch_norm or any(w.name == "moving_mean" for w in layer.weights):
            owner = model if is_batch_norm else layer
            raise ValueError(
                "Expected batch normalization that stays frozen when the model is "
                f"loaded from a file. Received: that of {owner.name!r}, whose class "
                f"{type(owner).__name__} builds its layers anew. Give a model of plain "
                "layers, such as `keras.Model(backbone.inputs, backbone.outputs)`; or "
                "choose `freeze_batch_norm=False`, to train it."
            )
