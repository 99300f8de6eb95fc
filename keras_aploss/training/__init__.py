"""Training on batches of any size: multistage backpropagation."""

from keras_aploss.training.multistage import embed_in_chunks
from keras_aploss.training.trainer import MultistageTrainer

__all__ = ["MultistageTrainer", "embed_in_chunks"]
