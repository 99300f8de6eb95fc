"""The tokens of a vision transformer: the class token, and the patches.

    (B, T, C)   class token ─ other prefix tokens (registers, distillation) ─ patches

Dimension key: ``B`` batch, ``T`` tokens, ``P`` prefix tokens, ``C`` channels.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_aploss")
class ClassToken(keras.layers.Layer):
    """The first token of each image, which many transformers train to stand for it.

    Input shape: `(B, T, C)`. Output shape: `(B, C)`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.layers import ClassToken
    >>> np.array(ClassToken()(np.arange(6.0).reshape(1, 3, 2)))
    array([[0., 1.]], dtype=float32)
    """

    def __init__(self, *, name: str | None = None, dtype: Any = None, **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, inputs):
        return inputs[:, 0]  # (B, C)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package="keras_aploss")
class PatchTokens(keras.layers.Layer):
    """The tokens of the patches, as a feature map of one column.

    Global pooling does not depend on where a patch lies, so that all pooling layers of
    feature maps take the result, whatever the size and the shape of the image.

    Args:
        num_prefix_tokens: number `P` of the tokens before the patches, which are left
            out: the class token, the token of the distillation, registers.

    Input shape: `(B, T, C)`. Output shape: `(B, T - P, 1, C)`.

    Raises:
        ValueError: for a negative `num_prefix_tokens`, or one that leaves no patch.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.layers import PatchTokens
    >>> tuple(PatchTokens(num_prefix_tokens=1)(np.zeros((1, 5, 8))).shape)
    (1, 4, 1, 8)
    """

    def __init__(
        self,
        num_prefix_tokens: int = 0,
        *,
        name: str | None = None,
        dtype: Any = None,
        **kwargs,
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if num_prefix_tokens < 0:
            raise ValueError(
                "Expected `num_prefix_tokens` to be 0 or more. Received: "
                f"num_prefix_tokens={num_prefix_tokens}."
            )
        self.num_prefix_tokens = int(num_prefix_tokens)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        if input_shape[1] is not None and input_shape[1] <= self.num_prefix_tokens:
            raise ValueError(
                f"Expected more tokens than num_prefix_tokens={self.num_prefix_tokens}"
                f", the patches. Received: shape {tuple(input_shape)}."
            )

    def call(self, inputs):
        return inputs[:, self.num_prefix_tokens :, None]  # (B, T - P, 1, C)

    def compute_output_shape(self, input_shape):
        batch, tokens, channels = input_shape
        patches = None if tokens is None else tokens - self.num_prefix_tokens
        return (batch, patches, 1, channels)

    def get_config(self):
        return super().get_config() | {"num_prefix_tokens": self.num_prefix_tokens}
