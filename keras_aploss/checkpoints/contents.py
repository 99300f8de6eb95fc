"""The contents of a checkpoint of the authors, checked before a network is built.

Every function takes from the dictionary what it needs, and refuses what it cannot use
by its name: a network that differs in silence gives wrong embeddings in silence.

Dimension key: ``D`` units of the embedding, ``K`` components of a PCA.
"""

import reprlib
from typing import Any

import numpy as np

from keras_aploss.layers import pca_kernel
from keras_aploss.pickles import PickledObject
from keras_aploss.torch_files import (
    AGAIN,
    RefusedError,
    StoredTensor,
    read_weight,
    tensors_of,
)

# The authors' networks that can be built, and the channels of their feature maps.
CHANNELS = {
    "resnet18_rmac": 512,
    "resnet50_rmac": 2048,
    "resnet101_rmac": 2048,
    "resnet152_rmac": 2048,
}
POOLING = {"gem": "gem", "max": "max", "avg": "average"}
# The last four choose weights to begin with, or nothing: the weights are in the file.
HONOURED = {
    *("arch", "pooling", "out_dim", "without_fc"),
    *("pretrained", "delete_fc", "gemp", "scales"),
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def find_weights(checkpoint: Any) -> dict[str, StoredTensor]:
    """The tensors of the state, without the prefix of DataParallel; none is read."""
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state:
        raise RefusedError(
            "which holds no `state_dict`",
            "Give the checkpoint itself, a dictionary with the entries state_dict and "
            "model_options.",
        )
    return tensors_of(state)


def check_exponent(weights: dict[str, StoredTensor]) -> None:
    """Refuse an exponent of GeM that the layer would not keep."""
    if "adpool.p" not in weights:
        return
    p = read_weight("adpool.p", weights["adpool.p"])
    if p.shape == (1,) and p[0] < 1:
        raise RefusedError(
            f"whose exponent adpool.p is {p[0]}, below 1, where "
            "`GeneralizedMeanPooling2D` ends",
            AGAIN,
        )


def read_options(
    checkpoint: dict, weights: dict[str, StoredTensor]
) -> tuple[str, str, int | None]:
    """Architecture, pooling and units, from the arguments that made the network.

    Of a network without projection, which has its weights all the same, they are
    removed.
    """
    options = checkpoint.get("model_options")
    options = options if isinstance(options, dict) else {}
    arch = options.get("arch")
    if not isinstance(arch, str) or arch not in CHANNELS:
        raise RefusedError(
            f"whose `model_options` name the architecture {reprlib.repr(arch)}",
            f"Of the authors' networks these can be built: {', '.join(CHANNELS)}.",
        )
    pooling = options.get("pooling", "gem")
    if not isinstance(pooling, str):
        pooling = "unknown"
    elif pooling.startswith("gem"):
        pooling = "gem"
    changes = {
        str(key): value
        for key, value in options.items()
        if not (key in HONOURED or _is_off(value))
        or (key == "pooling" and pooling not in POOLING)
    }
    if changes:
        told = ", ".join(
            f"{key}={reprlib.repr(changes[key])}" for key in sorted(changes)
        )
        raise RefusedError(
            f"whose `model_options` change the network by {told}",
            "Such networks cannot be built here yet.",
        )
    if not _is_off(options.get("without_fc")):
        weights.pop("fc.weight", None)
        weights.pop("fc.bias", None)
        return arch, POOLING[pooling], None
    shape = np.shape(weights.get("fc.weight", ()))  # (D, C)
    units = options.get("out_dim")
    units = shape[0] if units is None and shape else units
    if not isinstance(units, int | np.integer) or shape != (units, CHANNELS[arch]):
        raise RefusedError(
            f"whose 'fc.weight' has the shape {shape}, not (out_dim, {CHANNELS[arch]}) "
            f"with out_dim={reprlib.repr(options.get('out_dim'))}",
            AGAIN,
        )
    return arch, POOLING[pooling], int(units)


def _is_off(value):
    """Whether an option has the value at which all of the authors' options are off."""
    single = isinstance(value, bool | int | float | np.generic)
    return value is None or (single and value == 0)


def read_colours(checkpoint: dict) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of red, green and blue, of pixels in [0, 1]."""
    preprocess = checkpoint.get("preprocess", IMAGENET)
    try:
        if not isinstance(preprocess, dict):  # an array takes other keys
            raise TypeError
        colours = [
            [float(value) for value in preprocess[key]] for key in ("mean", "std")
        ]
        mean, std = np.array(colours)
        valid = len(mean) == 3 and np.isfinite(colours).all() and (std > 0).all()
    except (TypeError, KeyError, ValueError, OverflowError):
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
    parts = {
        name: np.asarray(attributes[name], "float64")
        for name in ("components_", "explained_variance_", "mean_")
        # Only arrays: numbers in lists of lists may stand for any amount of memory.
        if isinstance(attributes.get(name), np.ndarray)
        if attributes[name].dtype.kind in "biuf"
    }
    components = parts.get("components_", np.zeros(0))  # (K, D)
    variance = parts.get("explained_variance_", np.zeros(0))  # (K,)
    mean = parts.get("mean_", np.zeros(0))  # (D,)
    if attributes.get("mean_", 0) is None:
        mean = np.zeros(size)
    count = len(variance) if variance.ndim else 0
    shapes = components.shape, variance.shape, mean.shape
    numbers = [np.isfinite(array).all() for array in (components, variance, mean)]
    if shapes != ((count, size), (count,), (size,)) or not all(numbers):
        raise RefusedError(
            f"whose PCA is not one of embeddings of {size} units: components_, "
            f"explained_variance_ and mean_ have the shapes {shapes}",
            "Choose another, or `whitening=False`.",
        )
    if units is not None and not (
        isinstance(units, int | np.integer) and 1 <= units <= count
    ):
        raise RefusedError(
            f"whose PCA has {count} components, for whitening_units={units!r}",
            "Take as many or fewer.",
        )
    if _is_off(attributes.get("whiten", True)):
        power = 0.0
    return mean, pca_kernel(components.T, variance, power)[:, :units]
