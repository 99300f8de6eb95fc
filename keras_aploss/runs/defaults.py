"""Settings that suit the network, where they are left to it.

What suits random weights ruins pretrained ones: at a learning rate of 2e-3 a network
loses in a few steps what it has learnt from a million photographs. So those settings
that a network decides are 0 until it is known, and then get a number from the table
here. A run folder and an exported model hold the numbers.

They were found on the Grocery photos with EfficientNet-Lite0, as docs/backbones.md
tells; those of transformers are what is usual for them, and were not measured here.
"""

import dataclasses

import keras

from keras_aploss.layers import ClassToken, PatchTokens
from keras_aploss.models import is_architecture, native_image_size
from keras_aploss.runs.backbone import trained_image_size
from keras_aploss.runs.settings import RunSettings

RANDOM = {"image_size": 64, "learning_rate": 2e-3, "epochs": 12}
PRETRAINED = {"learning_rate": 3e-4, "epochs": 8}
# There is nothing random to train: a higher rate only forgets more.
NO_PROJECTION = {"learning_rate": 1e-4, "epochs": 8}
TRANSFORMER = {"learning_rate": 3e-5, "epochs": 8}


def is_pretrained(settings: RunSettings) -> bool:
    """Whether the network of a run begins with trained weights.

    Those of ImageNet or of a file, or of a backbone that is more than an architecture:
    a preset of keras-hub, or a trained model.

    >>> is_pretrained(RunSettings(backbone="ResNet50"))
    False
    >>> is_pretrained(RunSettings(backbone="dinov2_small"))
    True
    """
    return bool(settings.weights) or not is_architecture(settings.backbone)


def with_image_size(
    settings: RunSettings, encoder: keras.Model | None = None
) -> RunSettings:
    """The settings with an image size: that of the model, if it is built for one.

    Without a model a preset of keras-hub, or a trained model, leaves it open.
    """
    if settings.image_size:
        return settings
    size = 0
    if not is_pretrained(settings):
        size = RANDOM["image_size"]
    elif is_architecture(settings.backbone) or encoder is not None:
        size = native_image_size(settings.backbone)
    if encoder is not None:
        size = encoder.input_shape[1] or trained_image_size(settings.backbone) or size
    return dataclasses.replace(settings, image_size=size)


def with_defaults(settings: RunSettings, encoder: keras.Model) -> RunSettings:
    """The settings with a number wherever they left it to the network.

    Args:
        settings: those that were asked for; a number that is not 0 stays.
        encoder: the retrieval model.

    Example:
    >>> from keras_aploss import RunSettings, retrieval_model
    >>> settings = with_defaults(RunSettings(), retrieval_model("small_resnet"))
    >>> settings.image_size, settings.learning_rate, settings.epochs
    (64, 0.002, 12)
    """
    settings = with_image_size(settings, encoder)
    table = RANDOM
    if is_pretrained(settings):
        table = PRETRAINED if settings.units else NO_PROJECTION
        table = TRANSFORMER if _has_tokens(encoder) else table
    chosen = {key: value for key, value in table.items() if not getattr(settings, key)}
    return dataclasses.replace(settings, **chosen)


def _has_tokens(encoder):
    return any(isinstance(layer, ClassToken | PatchTokens) for layer in encoder.layers)
