"""What a checkpoint of the authors holds, checked before a network is built.

Every function takes from the dictionary what it needs, and refuses what it cannot use
by its name: a network that differs in silence gives wrong embeddings in silence.

Dimension key: ``D`` units of the embedding, ``K`` components of a PCA.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from keras_aploss.checkpoints.pickles import PickledObject, RefusedError
from keras_aploss.checkpoints.torch_files import DAMAGED, StoredTensor

POOLING = {"gem": "gem", "max": "max", "avg": "average"}
# The last four choose weights to begin with, or nothing: the weights are in the file.
HONOURED = {
    *("arch", "pooling", "out_dim", "without_fc"),
    *("pretrained", "delete_fc", "gemp", "scales"),
}
AGAIN = "Download the file again, or give one that the authors' code has written."
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def read_weights(checkpoint: Any) -> dict[str, np.ndarray]:
    """The tensors of the state, as float arrays, without the prefix of DataParallel."""
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state:
        raise RefusedError(
            "which holds no `state_dict`",
            "Give the checkpoint itself, a dictionary with the entries state_dict and "
            "model_options.",
        )
    weights = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, StoredTensor):
            raise RefusedError(f"whose state has no tensor at {key!r}", AGAIN)
        if key.endswith("num_batches_tracked"):
            continue
        try:
            array = np.asarray(tensor, "float32")
        except DAMAGED as error:
            raise RefusedError(f"whose {key!r} is damaged: {error}", AGAIN) from error
        least = 0 if key.endswith("running_var") else -np.inf
        if not np.isfinite(array).all() or np.min(array, initial=0) < least:
            raise RefusedError(
                f"whose {key!r} has values that are not finite, or negative variances",
                AGAIN,
            )
        weights[key.removeprefix("module.")] = array
    return weights


def read_options(
    checkpoint: dict, weights: dict[str, np.ndarray], architectures: Collection[str]
) -> tuple[str, str, int | None]:
    """Architecture, pooling and units, from the arguments that made the network.

    Of a network without projection, which has its weights all the same, they are
    removed.
    """
    options = checkpoint.get("model_options")
    options = options if isinstance(options, dict) else {}
    arch = options.get("arch")
    if not isinstance(arch, str) or arch not in architectures:
        raise RefusedError(
            f"whose `model_options` name the architecture {arch!r:.40}",
            f"Of the authors' networks these can be built: {', '.join(architectures)}.",
        )
    pooling = str(options.get("pooling", "gem"))
    pooling = "gem" if pooling.startswith("gem") else pooling
    changes = {
        str(key): value
        for key, value in options.items()
        if not (key in HONOURED or _is_off(value))
        or (key == "pooling" and pooling not in POOLING)
    }
    if changes:
        told = ", ".join(f"{key}={changes[key]!r:.40}" for key in sorted(changes))
        raise RefusedError(
            f"whose `model_options` change the network by {told}",
            "Such networks cannot be built here yet.",
        )
    if options.get("without_fc"):
        weights.pop("fc.weight", None)
        weights.pop("fc.bias", None)
        return arch, POOLING[pooling], None
    units = len(weights.get("fc.weight", ()))
    if units == 0 or options.get("out_dim") not in (None, units):
        raise RefusedError(
            f"whose projection 'fc.weight' has {units} rows, for the option out_dim="
            f"{options.get('out_dim')!r:.40}",
            AGAIN,
        )
    return arch, POOLING[pooling], units


def _is_off(value):
    """Whether an option has the value at which all of the authors' options are off."""
    return value is None or value is False or (type(value) is int and value == 0)


def read_colours(checkpoint: dict) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of red, green and blue, of pixels in [0, 1]."""
    preprocess = checkpoint.get("preprocess", IMAGENET)
    try:
        mean, std = (np.array(preprocess[key], "float64") for key in ("mean", "std"))
        valid = mean.shape == std.shape == (3,) and np.isfinite(mean).all()
        valid = valid and np.isfinite(std).all() and (std > 0).all()
    except (TypeError, KeyError, ValueError):
        valid = False
    if not valid:
        raise RefusedError(
            "whose `preprocess` does not give `mean` and `std` of three colours", AGAIN
        )
    return mean, std


def choose_pca(checkpoint: dict, whitening: str | bool) -> Any:
    """The PCA of that name, the only one for True, or None."""
    if whitening is False:
        return None
    pcas = checkpoint.get("pca")
    pcas = pcas if isinstance(pcas, dict) else {}
    name = whitening
    if whitening is True and len(pcas) == 1:
        (name,) = pcas
    if isinstance(name, str) and name in pcas:
        return pcas[name]
    names = ", ".join(repr(name) for name in pcas) or "no PCA at all"
    mend = "Load it with `whitening=False`, and learn one with `PCAWhitening.adapt`."
    if pcas:
        mend = (
            "Choose one: load_ap_gem(path, whitening=...). The command line takes the "
            "`.keras` file that its `save` writes."
        )
    raise RefusedError(f"in which there is {names}, for whitening={whitening!r}", mend)


def read_pca(
    pca: Any, size: int, power: float, units: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The mean `(D,)` and the kernel `(D, K)` of a whitening."""
    attributes = pca.attributes if isinstance(pca, PickledObject) else {}
    try:
        components = np.asarray(attributes["components_"], "float64")  # (K, D)
        variance = np.asarray(attributes["explained_variance_"], "float64")  # (K,)
        mean = attributes.get("mean_")
        mean = np.zeros(size) if mean is None else np.asarray(mean, "float64")  # (D,)
        count = len(components)
    except (TypeError, KeyError, ValueError):
        components = variance = mean = np.array(np.nan)
        count = 0
    shapes = components.shape, variance.shape, mean.shape
    numbers = [np.isfinite(array).all() for array in (components, variance, mean)]
    if shapes != ((count, size), (count,), (size,)) or not all(numbers):
        raise RefusedError(
            f"whose PCA is not one of embeddings of {size} units: components_, "
            f"explained_variance_ and mean_ have the shapes {shapes}",
            "Choose another, or `whitening=False`.",
        )
    if units is not None and not 1 <= units <= count:
        raise RefusedError(
            f"whose PCA has {count} components, for whitening_units={units!r}",
            "Take as many or fewer.",
        )
    if not attributes.get("whiten", True):
        power = 0.0
    # Without variance a component carries nothing: zero, as in `PCAWhitening.adapt`.
    kept = variance > 0
    scale = np.where(kept, np.where(kept, variance, 1.0) ** -power, 0.0)
    return mean, (components.T * scale)[:, :units]
