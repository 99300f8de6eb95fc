"""Train image-retrieval models in Keras by optimizing Average Precision itself."""

from keras_aploss.losses import APLoss, quantized_average_precision

__version__ = "0.1.0"
__all__ = ["APLoss", "quantized_average_precision"]
