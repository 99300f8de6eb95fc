"""State dictionaries of PyTorch: the weights of a network, by name.

A network that differs in silence gives wrong embeddings in silence: so what does not
fit is refused by its name, before anything is assigned.
"""

from typing import Any

import keras
import numpy as np

from keras_aploss.torch_files.reading import RefusedError, StoredTensor

AGAIN = "Download the file again, or give one that the authors' code has written."


def tensors_of(state: dict) -> dict[str, StoredTensor]:
    """The tensors of a state, without the prefix of DataParallel; none is read.

    The file holds as many numbers as their shapes need.

    Raises:
        RefusedError: an entry is no tensor, is damaged, or comes twice.
    """
    weights = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, StoredTensor):
            raise RefusedError(f"whose state has no tensor at {key!r}", AGAIN)
        if key.endswith("num_batches_tracked"):
            continue
        try:
            tensor.require_stored()
        except ValueError as error:
            raise RefusedError(f"whose {key!r} is damaged: {error}", AGAIN) from error
        name = key.removeprefix("module.")
        if name in weights:
            raise RefusedError(f"whose state has {name!r} twice", AGAIN)
        weights[name] = tensor
    return weights


def read_weight(name: str, tensor: StoredTensor) -> np.ndarray:
    """The numbers of a tensor, as float32: one at a time, since many may share them."""
    try:
        array = np.asarray(tensor, "float32")
    except ValueError as error:
        raise RefusedError(f"whose {name!r} is damaged: {error}", AGAIN) from error
    least = 0 if name.endswith("running_var") else -np.inf
    if not np.isfinite(array).all() or np.min(array, initial=0) < least:
        raise RefusedError(
            f"whose {name!r} has values that are not finite, or negative variances",
            AGAIN,
        )
    return array


def batch_norm_variables(name: str, layer: keras.layers.BatchNormalization) -> dict:
    """The variables of a batch normalization, for `assign_weights`."""
    return {
        f"{name}.weight": (layer.gamma, (0,)),
        f"{name}.bias": (layer.beta, (0,)),
        f"{name}.running_mean": (layer.moving_mean, (0,)),
        f"{name}.running_var": (layer.moving_variance, (0,)),
    }


def assign_weights(
    weights: dict[str, StoredTensor], variables: dict[str, tuple[Any, tuple[int, ...]]]
) -> None:
    """Give each variable its weights, if they fit without exception.

    Names and shapes come first: what does not belong to the network is not read.

    Args:
        weights: the tensors of the file, by PyTorch's names.
        variables: for each name the variable of Keras, and which of its axes each
            axis of the tensor is.

    Raises:
        RefusedError: names are missing or left over (the first are named), or a
            shape, or a value, is wrong.
    """
    for what, keys in (
        ("lacks", set(variables) - set(weights)),
        ("has left over", set(weights) - set(variables)),
    ):
        if keys:
            told = ", ".join(sorted(keys)[:5])
            count = f", {len(keys)} in all" if len(keys) > 5 else ""
            raise RefusedError(f"whose state {what} {told}{count}", AGAIN)
    for key, (variable, axes) in variables.items():
        shape = tuple(variable.shape[axis] for axis in axes)
        if weights[key].shape != shape:
            raise RefusedError(
                f"whose {key!r} has the shape {weights[key].shape}, not {shape}", AGAIN
            )
    for key, (variable, axes) in variables.items():
        variable.assign(np.transpose(read_weight(key, weights[key]), np.argsort(axes)))
