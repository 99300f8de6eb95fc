"""Whether the feature map of a backbone can have negative values."""

import keras
from keras import layers

NOT_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softplus", "exponential")


def ends_in_relu(backbone: keras.Model) -> bool:
    """Whether the last layer of a backbone is an activation without negative values.

    Other backbones may end so, too, within a layer of their own: this is what can be
    seen from outside.
    """
    last = _last_layer(backbone)
    while isinstance(last, keras.Model):
        last = _last_layer(last)
    if isinstance(last, layers.ReLU):
        return not last.negative_slope
    # Not the `activation` of any layer: a block may have one before its sum.
    is_activation = isinstance(last, layers.Activation)
    return is_activation and last.activation.__name__ in NOT_NEGATIVE


def _last_layer(model):
    """The layer that gives the output, as far as the model tells its layers."""
    inner = getattr(model, "layers", [])
    for layer in reversed(inner):
        if getattr(layer, "output", None) is getattr(model, "output", layer):
            return layer
    return inner[-1] if inner else None
