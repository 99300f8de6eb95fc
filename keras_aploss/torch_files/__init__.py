"""Files of `torch.save`, read without PyTorch, and the weights in them."""

from keras_aploss.torch_files.reading import (
    RefusedError as RefusedError,
    StoredTensor as StoredTensor,
    read_torch_file as read_torch_file,
)
from keras_aploss.torch_files.state import (
    AGAIN as AGAIN,
    assign_weights as assign_weights,
    batch_norm_variables as batch_norm_variables,
    read_weight as read_weight,
    tensors_of as tensors_of,
)

__all__ = [
    "AGAIN",
    "RefusedError",
    "StoredTensor",
    "assign_weights",
    "batch_norm_variables",
    "read_torch_file",
    "read_weight",
    "tensors_of",
]
