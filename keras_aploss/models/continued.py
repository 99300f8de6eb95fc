"""A trained retrieval model, to go on from on other images.

    images ─ preprocessing ─ backbone ─ pooling ─ projection │ L2 [─ whitening ─ L2]
                                                  ─ is kept ─┘

What has been learnt up to the line goes on: the backbone, the exponent of GeM, and the
projection, if the embedding is to have the same size. The whitening does not: it was
fitted to embeddings that the training changes.
"""

import logging
from typing import NamedTuple

import keras
from keras import layers

from keras_aploss.layers import (
    ClassToken,
    GeneralizedMeanPooling2D,
    PCAWhitening,
)

logger = logging.getLogger(__name__)

_POOLING = {
    GeneralizedMeanPooling2D: "gem",
    layers.GlobalMaxPooling2D: "max",
    layers.GlobalAveragePooling2D: "average",
    ClassToken: "cls",
}


class TrainedParts(NamedTuple):
    """The parts of a retrieval model that are trained on.

    Attributes:
        pooled: model from images to the pooled features `(B, C)`.
        projection: the layer after it; None: there is none.
        pooling: how they are pooled, as in `retrieval_model`.
        is_whitened: whether there is a whitening, which is left out.
    """

    pooled: keras.Model
    projection: keras.layers.Dense | None
    pooling: str
    is_whitened: bool


def trained_parts(model: keras.Model) -> TrainedParts | None:
    """Take a model of `retrieval_model` apart; None for any other model."""
    named = {layer.name: layer for layer in getattr(model, "layers", [])}
    pooling = next(
        (name for kind, name in _POOLING.items()
         if type(named.get("pooling")) is kind), None,
    )  # fmt: skip
    is_ours = pooling and isinstance(named.get("embedding"), layers.UnitNormalization)
    if not is_ours or len(getattr(model, "inputs", None) or []) != 1:
        return None
    if "class_token_and_patches" in named:
        pooling = f"cls+{pooling}"
    projection = named.get("projection")
    pooled = (projection or named["embedding"]).input
    return TrainedParts(
        keras.Model(model.input, pooled, name=model.name),
        projection,
        pooling,
        any(isinstance(layer, PCAWhitening) for layer in model.layers),
    )


def embedding_before_unit_length(
    parts: TrainedParts, units: int | None, pooling: str
) -> keras.KerasTensor:
    """The output of the parts, with a new projection where the size is another.

    Raises:
        ValueError: for another pooling, whose features the model was not trained for.
    """
    name = parts.pooled.name
    if pooling != parts.pooling:
        raise ValueError(
            f"Expected pooling={parts.pooling!r}, that of the model {name!r} to go on "
            f"from. Received: pooling={pooling!r}. To pool its features otherwise, "
            "give the model of them alone: "
            '`keras.Model(model.input, model.get_layer("pooling").input)`.'
        )
    if parts.is_whitened:
        logger.warning(
            "The whitening of %s is left out: it was fitted to the embeddings before "
            "this training. Fit another one after it (`whitening=True`).",
            name,
        )
    x = parts.pooled.output
    old = parts.projection and parts.projection.units
    if units in (None, old):
        return x if old is None else parts.projection(x)
    if old is not None:
        logger.warning(
            "The projection of %s to %d dimensions is left out: a new one to units=%d "
            "starts from random weights.",
            name,
            old,
            units,
        )
    return layers.Dense(int(units), name="projection")(x)
