"""Training on batches of any size: multistage backpropagation."""

from keras_aploss.training.memory import activation_bytes, choose_num_chunks
from keras_aploss.training.multistage import embed_in_chunks
from keras_aploss.training.trainer import MultistageTrainer

__all__ = [
    "MultistageTrainer",
    "activation_bytes",
    "choose_num_chunks",
    "embed_in_chunks",
]
