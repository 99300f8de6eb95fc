"""The retrieval model and the backbones it is built on."""

from keras_aploss.models.backbones import is_architecture as is_architecture
from keras_aploss.models.efficientnet_lite import (
    efficientnet_lite as efficientnet_lite,
)
from keras_aploss.models.native_sizes import native_image_size as native_image_size
from keras_aploss.models.resnet import small_resnet as small_resnet
from keras_aploss.models.retrieval import retrieval_model as retrieval_model

__all__ = [
    "efficientnet_lite",
    "is_architecture",
    "native_image_size",
    "retrieval_model",
    "small_resnet",
]
