"""Positions of DINOv2 that are saved as they were learnt."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_aploss")
class SavedPositions(keras.layers.Wrapper):
    """Run the embedding layer of a DINOv2 of keras-hub, and save its positions.

    That layer has two weights for them: `interpolated_position_embeddings`, which are
    in use and are trained, and `position_embeddings`, for the size of the first
    training, which alone are read from a file. keras-hub (0.32) brings the latter up to
    date only if the sum of all changes is positive. Here, where both are of one size,
    each file holds those in use.

    Args:
        layer: the layer `embeddings` of a `DINOV2Backbone` whose
            `position_embedding_shape` is its `image_shape`.
    """

    def call(self, inputs, training=None):
        return self.layer(inputs, training=training)

    def save_own_variables(self, store):
        # Keras saves the wrapped layer after its wrapper. A copy: JAX gives each buffer
        # of a step away, and only once.
        positions = ops.copy(self.layer.interpolated_position_embeddings.value)
        self.layer.position_embeddings.assign(positions)
        super().save_own_variables(store)
