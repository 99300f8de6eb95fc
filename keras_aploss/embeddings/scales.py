"""One embedding of several scales of an image.

An object that fills half of one photo fills a tenth of another. Embedded at several
sizes, and combined, both look more alike; the published results call it multi-scale
testing.

Dimension key: S scales, N images, D units.

References: Gordo et al., "End-to-end Learning of Deep Visual Representations for Image
Retrieval", IJCV 2017 (multi-resolution descriptors); Radenović, Tolias, Chum,
"Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019 (the generalized
mean over scales).
"""

import math

import numpy as np


def unit_length(embeddings) -> np.ndarray:
    """Divide each row by its length, as float32; a row of zeros stays zeros.

    The squares are summed in float64, which neither the largest nor the smallest
    float32 over- or underflows.

    Args:
        embeddings: `(N, D)` finite numbers.

    Returns:
        `(N, D)` float32.

    Example:
    >>> from keras_aploss.embeddings import unit_length
    >>> unit_length([[3.0, 4.0], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    x = np.asarray(embeddings)
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))  # (N,)
    length[length == 0] = 1.0
    return (x / length[:, None]).astype(np.float32)


def combine_scales(embeddings_per_scale, *, power: float | None = None) -> np.ndarray:
    """Combine the embeddings of each image at several scales into one.

        x = L2(mean_s x_s)                                       power None (or 1)
        x = L2(sign(m) |m|^(1/p)),  m = mean_s sign(x_s) |x_s|^p    power p

    The second is the generalized mean with signs: it raises and takes roots without
    losing the sign of a coordinate, and large values count more as p grows.

    Args:
        embeddings_per_scale: `(S, N, D)` finite numbers.
        power: the exponent p, above 0; None is the plain mean.

    Returns:
        `(N, D)` float32 of unit length. Where scales cancel to zero, zeros remain.

    Raises:
        ValueError: for another shape, no scale, or an exponent that is not above 0.

    Example:
    The cubes of 0.6 and 0 have the mean 0.108, and those of 0.8 and 1 0.756.

    >>> from keras_aploss.embeddings import combine_scales
    >>> at_two_scales = [[[0.6, -0.8]], [[0.0, -1.0]]]
    >>> combine_scales(at_two_scales).round(4)
    array([[ 0.3162, -0.9487]], dtype=float32)
    >>> combine_scales(at_two_scales, power=3).round(4)
    array([[ 0.4633, -0.8862]], dtype=float32)
    """
    x = np.asarray(embeddings_per_scale, np.float64)  # (S, N, D)
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(
            "Expected embeddings of shape (scales, images, units). Received: "
            f"embeddings_per_scale.shape={x.shape}."
        )
    check_power(power)
    if power is None or power == 1:
        return unit_length(x.mean(axis=0))
    # Relative to the largest of the scales no power over- or underflows.
    largest = np.abs(x).max(axis=0)  # (N, D)
    relative = x / np.where(largest > 0, largest, 1.0)
    m = np.mean(np.sign(relative) * np.abs(relative) ** power, axis=0)
    return unit_length(largest * np.sign(m) * np.abs(m) ** (1 / power))


def check_power(power: float | None) -> None:
    """Refuse an exponent of `combine_scales` that is not above 0."""
    if power is not None and not 0 < power < math.inf:
        raise ValueError(
            "Expected `power` above 0, or None for the plain mean. Received: "
            f"power={power!r}."
        )


def check_scales(scales) -> list[float]:
    """The scales as floats: one or more, all above 0."""
    scales = [float(scale) for scale in scales]
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"Expected one scale or more, above 0. Received: {scales=}.")
    return scales
