"""Backbones as models of plain layers, and which of their layers are frozen."""

import keras
from keras import layers

from keras_aploss.layers import InferenceMode


def of_plain_layers(model: keras.Model) -> keras.Model:
    """A model of the same layers whose file says of each whether it is frozen.

    The class of a backbone of keras-hub builds all layers anew when it is loaded.
    """
    if _is_plain(model) or not getattr(model, "inputs", None):
        return model
    return keras.Model(model.input, model.output, name=model.name)


def _is_plain(model):
    """Whether a file of the model holds a configuration for each of its layers."""
    if not isinstance(model, keras.Model):
        return False
    x = keras.Input((1,))
    functional = type(keras.Model(x, x + 1.0))  # a class that Keras does not export
    return type(model) in (keras.Sequential, functional)


def freeze_normalization(model: keras.layers.Layer) -> keras.layers.Layer:
    """A model of the same layers that keeps the statistics of batch normalization.

    It keeps them in its file, too. Batch normalization among the layers of the model
    is frozen. For that inside of a layer of another class, which builds it anew, and
    trained, from a file, the layer runs in `InferenceMode`.
    """
    if not _is_plain(model):
        has_statistics = any(w.name == "moving_mean" for w in model.weights)
        return InferenceMode(model) if has_statistics else model
    replaced = {}
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
        elif not isinstance(layer, InferenceMode):
            frozen = freeze_normalization(layer)
            if frozen is not layer:
                replaced[layer.name] = frozen
    if not replaced:
        return model
    return keras.models.clone_model(
        model, clone_function=lambda layer: replaced.get(layer.name, layer)
    )
