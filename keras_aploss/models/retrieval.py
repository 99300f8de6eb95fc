"""The retrieval model: an image in, a unit-length embedding out.

    images ─ preprocessing ─ backbone ─ pooling ─ projection ─ L2 [─ whitening ─ L2]

A plain functional `keras.Model`: training, saving, `summary()` and export are Keras's
own. Preprocessing is inside, so that nobody who serves the model can get it wrong.

Dimension key: ``B`` batch, ``H, W`` height and width of the images, ``h, w, C`` of the
feature map, ``D`` units of the embedding.
"""

import keras
import numpy as np
from keras import layers

from keras_aploss.layers import GeneralizedMeanPooling2D, PCAWhitening
from keras_aploss.models.backbones import named_backbone
from keras_aploss.models.channels import channels_last
from keras_aploss.models.plain import freeze_normalization, of_plain_layers

POOLING = {
    "gem": GeneralizedMeanPooling2D,
    "max": layers.GlobalMaxPooling2D,
    "average": layers.GlobalAveragePooling2D,
}


@channels_last()
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
        backbone, preprocess = named_backbone(backbone, weights)
        x = preprocess(x)
    backbone = of_plain_layers(backbone)
    if freeze_batch_norm or (freeze_batch_norm is None and pretrained):
        freeze_normalization(backbone)
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
