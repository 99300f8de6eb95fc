"""The layers between a backbone and a retrieval embedding: pooling and whitening.

`pca_kernel` is handed on to `keras_aploss.embeddings`, which whitens arrays.
"""

from keras_aploss.layers.inference import InferenceMode as InferenceMode
from keras_aploss.layers.pooling import (
    GeneralizedMeanPooling2D as GeneralizedMeanPooling2D,
)
from keras_aploss.layers.positions import SavedPositions as SavedPositions
from keras_aploss.layers.tokens import (
    ClassToken as ClassToken,
    PatchTokens as PatchTokens,
)
from keras_aploss.layers.whitening import (
    PCAWhitening as PCAWhitening,
    pca_kernel as pca_kernel,
)

__all__ = [
    "ClassToken",
    "GeneralizedMeanPooling2D",
    "InferenceMode",
    "PCAWhitening",
    "PatchTokens",
    "SavedPositions",
    "pca_kernel",
]
