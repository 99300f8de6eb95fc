"""PCA whitening of stored embeddings.

Directions that all photos of a collection share say little about which of them match.
Whitening, learnt on other images, divides the principal components by a power of their
variances, and the result is brought to unit length again.

Dimension key: N embeddings, D units before and U after.

Reference: Jégou, Chum, "Negative evidences and co-occurrences in image retrieval: the
benefit of PCA and whitening", ECCV 2012.
"""

import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_aploss.embeddings.scales import unit_length
from keras_aploss.embeddings.storage import (
    check_matrix,
    finite_blocks,
    load_embeddings,
    save_blocks,
)
from keras_aploss.layers import PCAWhitening, pca_kernel


def whitening_kernel(
    components,
    explained_variance,
    *,
    power: float = 0.25,
    units: int | None = None,
    epsilon: float = 1e-8,
) -> np.ndarray:
    """The matrix C / variance^power of a PCA, for `whiten_embeddings`.

    `power=0.5` is full whitening: `(x - mean) @ kernel` is scikit-learn's
    `PCA(whiten=True)`. The published models of the paper use 0.25; 0 only rotates.

    Args:
        components: `(U, D)`, a principal direction per row, as scikit-learn's
            `components_`.
        explained_variance: `(U,)`, their variances in descending order.
        power: exponent of the variances, from 0 to 1.
        units: how many components to keep; None keeps all.
        epsilon: components whose variance is at most `epsilon` times the largest are
            rounding noise, and zeroed.

    Returns:
        `(D, U)` float32.

    Raises:
        ValueError: for shapes that do not fit, variances that are not descending or
            not positive at all, or settings out of range.

    Example:
    >>> from keras_aploss.embeddings import whitening_kernel
    >>> whitening_kernel([[0.6, 0.8], [0.8, -0.6]], [16.0, 1.0])
    array([[ 0.3,  0.8],
           [ 0.4, -0.6]], dtype=float32)
    """
    components = np.asarray(components, np.float64)  # (U, D)
    variance = np.asarray(explained_variance, np.float64)  # (U,)
    if components.ndim != 2 or variance.shape != components.shape[:1]:
        raise ValueError(
            "Expected `components` (U, D) and `explained_variance` (U,). Received: "
            f"shapes {components.shape} and {variance.shape}."
        )
    if not 0 <= power <= 1:
        raise ValueError(
            "Expected `power` between 0 (rotation) and 1; 0.5 is full whitening. "
            f"Received: power={power}."
        )
    if units is not None and not 1 <= units <= len(variance):
        raise ValueError(
            f"Expected `units` from 1 to {len(variance)}, the components there are. "
            f"Received: units={units}."
        )
    if not (np.isfinite(variance).all() and (np.diff(variance) <= 0).all()) or not (
        len(variance) and variance[0] > 0
    ):
        raise ValueError(
            "Expected finite variances in descending order, the first above 0. "
            f"Received: explained_variance={variance}."
        )
    kernel = pca_kernel(components.T, variance, power, epsilon)
    return kernel[:, :units].astype(np.float32)


def whiten_embeddings(
    embeddings,
    whitening: PCAWhitening | Sequence[np.ndarray],
    *,
    out: str | os.PathLike | None = None,
    block_size: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Whiten embeddings block by block: `L2((x - mean) @ kernel)`.

    To learn a whitening from a mapped file, hand it to `PCAWhitening.adapt`.

    Args:
        embeddings: `(N, D)` finite floats, a mapped file too.
        whitening: an adapted `PCAWhitening` layer, or the pair `(mean, kernel)` of
            shapes `(D,)` and `(D, U)`; see `whitening_kernel`.
        out: `.npy` file to write, for more than fits the memory; it may be the file of
            `embeddings`.
        block_size: rows at a time; None: 16 MiB of them.
        verbose: 1 shows a progress bar.

    Returns:
        `(N, U)` float32 of unit length; mapped read-only if `out` is given. An
        embedding that is the mean itself stays zeros.

    Raises:
        ValueError: for arrays that do not fit each other, NaN or infinity, or a layer
            that has no statistics.
        OSError: if `out` cannot be written.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import PCAWhitening
    >>> from keras_aploss.embeddings import whiten_embeddings
    >>> embeddings = np.random.default_rng(0).normal(size=(100, 8))
    >>> whitening = PCAWhitening(units=2, power=0.25)
    >>> whitening.adapt(embeddings)
    >>> whitened = whiten_embeddings(embeddings, whitening)
    >>> whitened.shape, round(float(np.linalg.norm(whitened[0])), 4)
    ((100, 2), 1.0)
    """
    embeddings = check_matrix(embeddings, "embeddings")
    mean, kernel = mean_and_kernel(whitening)
    if kernel.ndim != 2 or not mean.shape == embeddings.shape[1:] == kernel.shape[:1]:
        raise ValueError(
            f"Expected a whitening of {embeddings.shape[1]} units, those of the "
            f"embeddings. Received: mean.shape={mean.shape}, "
            f"kernel.shape={kernel.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(kernel).all()):
        raise ValueError(
            "Expected a finite whitening. Received: NaN or infinity in its mean or "
            "kernel."
        )
    blocks = (
        unit_length((block - mean) @ kernel)
        for _, block in finite_blocks(embeddings, "embeddings", block_size)
    )
    shape = len(embeddings), kernel.shape[1]
    return save_blocks(blocks, shape, out, verbose=verbose)


def read_whitening(
    path: str | os.PathLike, *, power: float = 0.25
) -> tuple[np.ndarray, np.ndarray] | PCAWhitening:
    """Read a whitening, or learn it from stored embeddings.

    Args:
        path: an `.npz` file with `mean` and `kernel`, or with `mean`, `components` and
            `explained_variance`, as scikit-learn's PCA has them; or an `.npy` file of
            embeddings of other images, such as the training set, to learn from.
        power: exponent of the variances, unless the file has the kernel: 0.25 in the
            paper, 0.5 for full whitening.

    Returns:
        A whitening for `whiten_embeddings`: `(mean, kernel)`, or a layer that was
        learnt.

    Raises:
        ValueError: if the file is neither.

    Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_aploss.embeddings import read_whitening
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "whitening.npz")
    ...     np.savez(path, mean=np.zeros(2), kernel=np.eye(2))
    ...     mean, kernel = read_whitening(path)
    >>> kernel.shape
    (2, 2)
    """
    path = os.fspath(path)
    if path.endswith(".npy"):
        whitening = PCAWhitening(power=power)
        whitening.adapt(load_embeddings(path, check=True))
        return whitening
    try:
        with np.load(path, allow_pickle=False) as arrays:
            arrays = dict(arrays)
        mean = arrays["mean"]
        if "kernel" in arrays:
            return mean, arrays["kernel"]
        variance = arrays["explained_variance"]
        return mean, whitening_kernel(arrays["components"], variance, power=power)
    # Of a damaged archive NumPy raises almost anything: BadZipFile, zlib.error,
    # KeyError, ValueError, EOFError...
    except Exception as error:
        raise ValueError(
            "Expected an `.npz` file with mean and kernel (or mean, components and "
            "explained_variance), or an `.npy` file of embeddings. Received: "
            f"{path!r}: {type(error).__name__}: {' '.join(str(error).split())}."
        ) from error


def mean_and_kernel(whitening) -> tuple[np.ndarray, np.ndarray]:
    """The float32 arrays of a whitening, a layer or the pair itself."""
    if isinstance(whitening, PCAWhitening):
        if not whitening.built:
            raise ValueError(
                "Expected a whitening that was learnt. Received: a layer without "
                "statistics. Call `adapt(embeddings)` first."
            )
        whitening = whitening.mean, whitening.kernel
    try:
        mean, kernel = whitening
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected a PCAWhitening layer or a pair (mean, kernel). Received: "
            f"{type(whitening).__name__}."
        ) from error
    return (
        np.asarray(keras.ops.convert_to_numpy(mean), np.float32),
        np.asarray(keras.ops.convert_to_numpy(kernel), np.float32),
    )
