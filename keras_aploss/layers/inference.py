"""A layer that runs as in inference, in training, too."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_aploss")
class InferenceMode(keras.layers.Wrapper):
    """Run a layer with `training=False`, while its weights are trained.

    Batch normalization inside of it keeps its stored statistics, and dropout does
    nothing. `trainable = False` at the normalization itself does so for layers of a
    functional model; for one that a layer makes inside of itself, no file says that it
    is frozen, and the model would train it again once it is loaded.

    Args:
        layer: a layer of one input.

    Input and output shape: those of the layer.

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss.layers import InferenceMode
    >>> norm = keras.layers.BatchNormalization()
    >>> _ = InferenceMode(norm)(np.full((8, 4), 100.0), training=True)
    >>> np.array(norm.moving_mean)
    array([0., 0., 0., 0.], dtype=float32)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        name: str | None = None,
        dtype: Any = None,
        **kwargs,
    ):
        super().__init__(layer, name=name or layer.name, dtype=dtype, **kwargs)

    def build(self, input_shape=None):
        # By a call: layers of others build some of their parts only then.
        if not self.layer.built:
            self.layer(keras.KerasTensor(input_shape, dtype=self.layer.compute_dtype))

    def call(self, inputs, training=None):
        return self.layer(inputs, training=False)

    def get_config(self):
        config = super().get_config()
        # By which Keras would build it as above it is not to be built.
        config["layer"].pop("build_config", None)
        return config
