"""Training on batches of any size: multistage backpropagation."""

from keras_aploss.training.memory import (
    activation_bytes as activation_bytes,
    choose_num_chunks as choose_num_chunks,
)
from keras_aploss.training.multistage import embed_in_chunks as embed_in_chunks
from keras_aploss.training.trainer import MultistageTrainer as MultistageTrainer
