"""Embeddings of images of any sizes, at several scales, in memory or in a `.npy` file.

The images go through the model batch by batch, see `batches`. A file is written so that
an interrupted call can be resumed, see `resumable` and `npy_file`.

Dimension key: N images, B images per batch, S scales, D units.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_aploss.embeddings.batches import (
    ReadableImages,
    embedded_at_scales,
    embedded_batches,
)
from keras_aploss.embeddings.fingerprint import describe_images, weights_digest
from keras_aploss.embeddings.input_size import check_images
from keras_aploss.embeddings.npy_file import NpyFile
from keras_aploss.embeddings.resumable import Progress, write_embeddings
from keras_aploss.embeddings.scales import check_power, check_scales
from keras_aploss.images import SkippedImage


def embed_at_scales(
    model: keras.Model,
    images,
    scales: Sequence[float] = (1.0,),
    *,
    batch_size: int = 16,
    workers: int = 2,
    verbose: int = 0,
) -> np.ndarray:
    """Embed images, of any sizes, at several scales.

    A scaled image is `scale_image(image, scale)`: the antialiased bilinear filter of
    the whole package. `combine_scales` makes one embedding of an image's several.

    On TensorFlow the model is traced twice, whatever the sizes are; other backends
    compile it once for each size.

    Args:
        model: maps `(B, H, W, 3)` images of any size to `(B, D)` embeddings.
        images: a sequence of N `(H, W, 3)` arrays, `uint8` if scaled: `OriginalImages`,
            `ImageFiles`, an array.
        scales: factors of the sides of each image.
        batch_size: images to read at once; those of one size go through the model
            together.
        workers: threads that read and scale.
        verbose: 1 shows a progress bar.

    Returns:
        `(S, N, D)` float32.

    Raises:
        ValueError: for settings out of range, images or scales of a size that the
            model is not built for, a model whose output is no `(B, D)` matrix, or an
            embedding that is not finite, whose image is named.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import retrieval_model
    >>> from keras_aploss.embeddings import embed_at_scales
    >>> model = retrieval_model("small_resnet", units=8)
    >>> images = [np.zeros((40, 60, 3), "uint8"), np.zeros((60, 40, 3), "uint8")]
    >>> embed_at_scales(model, images, scales=(1.0, 0.7)).shape
    (2, 2, 8)
    """
    scales = _check(model, images, scales, batch_size, workers)
    progress = Progress(len(images), verbose)
    parts = []
    part = range(len(images))
    batches = embedded_at_scales(model, images, part, scales, batch_size, workers)
    with contextlib.closing(batches):
        for embeddings, _ in batches:
            parts.append(embeddings)
            progress.add(embeddings.shape[1])
    return np.concatenate(parts, axis=1)


def extract_embeddings(
    model: keras.Model,
    images,
    path: str | os.PathLike,
    *,
    scales: Sequence[float] = (1.0,),
    power: float | None = None,
    batch_size: int = 16,
    workers: int = 2,
    verbose: int = 0,
) -> np.ndarray:
    """Write the embeddings of many images into a `.npy` file, resumably.

    Each image is embedded at each scale, the scales are combined and the result is
    brought to unit length (`combine_scales`). A kill at any moment loses the work of
    the last ten seconds; the same call resumes from there and reads no image again.
    A finished file is returned as it is. What may not differ between two calls is in
    `path` + `.json`: number and paths of the images, how they are read, weights of the
    model, scales, power and batch size. Whether the files themselves are still the same
    is not checked.

    Images of one size give, resumed or not, the same bytes; of different sizes, the
    same up to the rounding of float32.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        images: a sequence of N `(H, W, 3)` arrays, see `embed_at_scales`.
        path: the `.npy` file, float32 `(N, D)`. Until it is whole its rows are in
            `path` + `.partial`.
        scales: factors of the sides of each image.
        power: exponent of the signed generalized mean over the scales; None: the mean.
        batch_size: images to read at once.
        workers: threads that read and scale.
        verbose: 1 shows a progress bar, with the images per second.

    Returns:
        `(N, D)` float32, mapped read-only.

    Raises:
        ValueError: if `path` holds other embeddings (says which setting differs), an
            image cannot be read, or an embedding is not finite: what was done before
            is kept. Or, before anything is read, if the model is built for one size
            and the images or the scales are not of it. `extract_files` leaves bad files
            out.
        OSError: if the disk is full, or another process writes to `path`. What was
            done is kept.

    Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_aploss import extract_embeddings, retrieval_model
    >>> model = retrieval_model("small_resnet", units=8)
    >>> images = np.zeros((3, 32, 32, 3), "uint8")
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "photos.npy")
    >>> extract_embeddings(model, images, path, scales=(1.0, 0.5)).shape
    (3, 8)
    >>> sorted(os.listdir(folder.name))
    ['photos.npy', 'photos.npy.json']
    """
    options = _options(model, images, scales, power, batch_size, workers)
    output = NpyFile(path, len(images), _settings(model, images, options))
    produce = functools.partial(embedded_batches, model, images, **options)
    write_embeddings(output, produce, verbose=verbose)
    return output.load()


def extract_files(
    model: keras.Model,
    images,
    path: str | os.PathLike,
    *,
    left_out: Sequence[SkippedImage] = (),
    scales: Sequence[float] = (1.0,),
    power: float | None = None,
    batch_size: int = 16,
    workers: int = 2,
    verbose: int = 0,
) -> tuple[np.ndarray, list[SkippedImage]]:
    """Write the embeddings of those files that are images, and list both kinds.

    As `extract_embeddings`, but a file that `find_unreadable` would list has no row.
    `path` + `.csv` names the image of each row, `path` + `.skipped.csv` the files that
    were left out and the reasons. Both are written when all is done.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        images: `ImageFiles` or `OriginalImages`.
        path: the `.npy` file.
        left_out: files to list as skipped as well, which are not among the images.
        scales: factors of the sides of each image.
        power: exponent of the generalized mean over the scales; None: the mean.
        batch_size: images to read at once.
        workers: threads that read and scale.
        verbose: 1 shows a progress bar, with the images per second.

    Returns:
        The embeddings, mapped read-only, and the files that were left out.

    Raises:
        ValueError: as `extract_embeddings`; or no file at all is an image.
        OSError: as `extract_embeddings`.

    Example:
    >>> import os, tempfile, PIL.Image
    >>> from keras_aploss import ImageFiles, retrieval_model
    >>> from keras_aploss.embeddings import extract_files
    >>> model = retrieval_model("small_resnet", units=8)
    >>> folder = tempfile.TemporaryDirectory()
    >>> paths = [os.path.join(folder.name, f"{name}.png") for name in "abc"]
    >>> for path in paths[:2]:
    ...     PIL.Image.new("RGB", (60, 40), "white").save(path)
    >>> out = os.path.join(folder.name, "photos.npy")
    >>> embeddings, skipped = extract_files(model, ImageFiles(paths, 32), out)
    >>> embeddings.shape, skipped[0].reason
    ((2, 8), 'the file does not exist')
    """
    options = _options(model, images, scales, power, batch_size, workers)
    settings = _settings(model, images, options)
    output = NpyFile(path, len(images), settings, paths=images.paths, left_out=left_out)
    readable = ReadableImages(images)
    produce = functools.partial(embedded_batches, model, readable, **options)
    with warnings.catch_warnings():
        # What is wrong with a file is listed; Pillow also warns of what is only odd.
        warnings.filterwarnings("ignore", module="PIL")
        write_embeddings(output, produce, verbose=verbose)
    return output.load(), output.skipped


def _options(model, images, scales, power, batch_size, workers):
    """The options of `embedded_batches`, checked."""
    check_power(power)
    scales = _check(model, images, scales, batch_size, workers)
    return {
        **{"scales": scales, "power": power},
        **{"batch_size": batch_size, "workers": workers},
    }


def _settings(model, images, options):
    """The settings that embeddings depend on, as JSON holds them."""
    names = ("scales", "power", "batch_size")
    settings = {**describe_images(images), "weights": weights_digest(model)}
    return settings | {name: options[name] for name in names}


def _check(model, images, scales, batch_size, workers):
    if batch_size < 1 or workers < 1 or len(images) < 1:
        raise ValueError(
            "Expected at least one image, `batch_size` >= 1 and `workers` >= 1. "
            f"Received: len(images)={len(images)}, batch_size={batch_size}, "
            f"workers={workers}."
        )
    scales = check_scales(scales)
    check_images(model, images, scales)
    return scales
