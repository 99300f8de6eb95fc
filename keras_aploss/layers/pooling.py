"""Pooling layers: a feature map of any size, or patch tokens, becomes one vector.

Dimension key: ``B`` batch, ``H, W`` height and width of the feature map, ``C`` its
channels.

Reference: Radenović, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human
Annotation", TPAMI 2019, eq. 3 (GeM).
"""

from typing import Any

import keras
import numpy as np
from keras import ops


def _power_mean(x, p, axes, epsilon):
    """(mean of max(x, ε)^p over `axes`)^(1/p), `p` of shape (C,) or (1,): (B, C)."""
    shape = ops.shape(x)
    area = ops.cast(shape[axes[0]] * shape[axes[1]], x.dtype)
    exponent = ops.reshape(p, (-1, 1, 1)) if axes == (2, 3) else p
    log_sum = ops.logsumexp(exponent * ops.log(ops.maximum(x, epsilon)), axis=axes)
    return ops.exp((log_sum - ops.log(area)) / p)


@keras.saving.register_keras_serializable(package="keras_aploss")
class GeneralizedMeanPooling2D(keras.layers.Layer):
    """GeM pooling: the power mean of each channel over the feature map.

        y_c = (1 / HW Σ_hw max(x_hwc, ε)^p)^(1/p)

    `p = 1` is average pooling, `p → ∞` is max pooling; in between, strong activations
    count more, wherever they are. `p` is learnt with the network and held at or above
    1.

    That formula loses whatever is negative, which is half of the output of a ConvNeXt
    or of a transformer. With `signed=True` both signs are pooled, each by itself:

        y_c = GeM(max(x, 0))_c - GeM(max(-x, 0))_c

    of which `p = 1` is average pooling again, and which is the same on a map without
    negative values.

    The powers are taken as `logsumexp(p log x)` in float32, so that neither a large `p`
    nor a 16-bit policy overflows or underflows, and the gradient at zero activations is
    zero, not infinite.

    Args:
        p: initial exponent, at least 1. The paper starts at 3.
        trainable_p: whether `p` is learnt.
        per_channel: one exponent per channel, shape `(C,)`, instead of one, `(1,)`.
        signed: pool negative activations, too. By default values below `epsilon` are
            lost, as in the paper, whose networks end in a ReLU.
        epsilon: floor of the activations.
        data_format: `"channels_last"` or `"channels_first"`; the Keras default if None.

    Input shape: `(B, H, W, C)`, or `(B, C, H, W)` for `"channels_first"`; any size.

    Output shape: `(B, C)`.

    Raises:
        ValueError: if `p` is below 1, `epsilon` is not positive, `data_format` is
            unknown, or the input is not of rank 4 or has no pixel.

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss import GeneralizedMeanPooling2D
    >>> feature_map = np.array([1.0, 2.0, 3.0, 4.0], "float32").reshape(1, 2, 2, 1)
    >>> pooled = GeneralizedMeanPooling2D(p=3)(feature_map)
    >>> round(float(pooled[0, 0]), 4)  # ((1 + 8 + 27 + 64) / 4) ** (1 / 3)
    2.924
    >>> signed = GeneralizedMeanPooling2D(p=3, signed=True)
    >>> signed_map = np.array([1.0, -2.0, 0.0, 0.0], "float32").reshape(1, 2, 2, 1)
    >>> round(float(signed(signed_map)[0, 0]), 4)  # (1 / 4) ** (1 / 3) - 2 * the same
    -0.63
    """

    def __init__(
        self,
        p: float = 3.0,
        *,
        trainable_p: bool = True,
        per_channel: bool = False,
        signed: bool = False,
        epsilon: float = 1e-6,
        data_format: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs,
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        data_format = data_format or keras.config.image_data_format()
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "Expected `data_format` to be 'channels_last' or 'channels_first'. "
                f"Received: data_format={data_format!r}."
            )
        if not 1 <= p < np.inf:
            raise ValueError(
                "Expected `p` to be a number of at least 1 (1 is the average, large "
                f"values approach the maximum). Received: p={p!r}."
            )
        if not epsilon > 0:
            raise ValueError(
                "Expected `epsilon` to be positive, to keep the logarithm finite. "
                f"Received: epsilon={epsilon!r}."
            )
        self.initial_p = float(p)
        self.trainable_p = trainable_p
        self.per_channel = per_channel
        self.signed = signed
        self.epsilon = epsilon
        self.data_format = data_format
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        self.p = self.add_weight(
            name="p",
            shape=(channels,) if self.per_channel else (1,),
            initializer=keras.initializers.Constant(self.initial_p),
            constraint=_AtLeastOne(),
            trainable=self.trainable_p,
            autocast=False,
        )

    def call(self, inputs):
        axes = (1, 2) if self.data_format == "channels_last" else (2, 3)
        if 0 in (inputs.shape[axes[0]], inputs.shape[axes[1]]):
            raise ValueError(
                "Expected a feature map of at least one pixel. Received: shape "
                f"{tuple(inputs.shape)}. Give the backbone larger images."
            )
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        p = ops.cast(self.p, dtype)
        x = ops.cast(inputs, dtype)  # (B, H, W, C)
        pooled = _power_mean(x, p, axes, self.epsilon)  # (B, C)
        if self.signed:
            pooled = pooled - _power_mean(-x, p, axes, self.epsilon)
        return ops.cast(pooled, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        return (input_shape[0], channels)

    def get_config(self):
        return {
            **super().get_config(),
            "p": self.initial_p,
            "trainable_p": self.trainable_p,
            "per_channel": self.per_channel,
            "signed": self.signed,
            "epsilon": self.epsilon,
            "data_format": self.data_format,
        }


class _AtLeastOne(keras.constraints.Constraint):
    def __call__(self, w):
        return ops.maximum(w, 1.0)
