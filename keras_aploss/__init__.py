"""Train image-retrieval models in Keras by optimizing Average Precision itself."""

from keras_aploss.layers import GeneralizedMeanPooling2D, PCAWhitening
from keras_aploss.losses import APLoss, quantized_average_precision
from keras_aploss.models import retrieval_model, small_resnet
from keras_aploss.samplers import ClassBalancedSampler

__version__ = "0.1.0"
__all__ = [
    "APLoss",
    "ClassBalancedSampler",
    "GeneralizedMeanPooling2D",
    "PCAWhitening",
    "quantized_average_precision",
    "retrieval_model",
    "small_resnet",
]
