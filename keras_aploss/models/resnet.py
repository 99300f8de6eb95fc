"""A small residual network for training from random weights."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_aploss.models.channels import channels_last


@channels_last()
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
