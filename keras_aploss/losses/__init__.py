"""Losses over a whole batch of embeddings; one idea per file."""

from keras_aploss.losses.average_precision import APLoss as APLoss
from keras_aploss.losses.average_precision import (
    quantized_average_precision as quantized_average_precision,
)
