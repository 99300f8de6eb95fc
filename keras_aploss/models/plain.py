"""Backbones as models of plain layers, and which of their layers are frozen."""

import keras
from keras import layers


def of_plain_layers(model: keras.Model) -> keras.Model:
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


def freeze_normalization(model: keras.Model) -> None:
    """Keep the statistics of batch normalization, in this model and in its file.

    Raises:
        ValueError: if a class would build it anew, and trained, from a file.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            freeze_normalization(layer)
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
