"""The retrieval model and the backbones it is built on."""

from keras_aploss.models.efficientnet_lite import (
    efficientnet_lite as efficientnet_lite,
)
from keras_aploss.models.resnet import small_resnet as small_resnet
from keras_aploss.models.retrieval import retrieval_model as retrieval_model

__all__ = ["efficientnet_lite", "retrieval_model", "small_resnet"]
