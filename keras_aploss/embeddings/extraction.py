"""From images to stored embeddings: work of hours that can be broken off at any time.

Images are taken in batches, in order. Threads read the next batch, and scale it, while
the model works on this one. In a batch, images of one size go through the model
together. Rows are appended to `PATH.partial`, and `PATH.json` says how many of them are
safe on the disk, and from which images and which model they are; when all are there,
the file gets its name in one step.

Dimension key: N images, B images per batch, S scales, D units.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_aploss.embeddings.resuming import EmbeddingsFile, settings_of
from keras_aploss.embeddings.scales import check_power, check_scales, combine_scales
from keras_aploss.images import scale_image

logger = logging.getLogger(__name__)


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
        ValueError: for settings out of range, a model whose output is no `(B, D)`
            matrix, or an embedding that is not finite, whose image is named.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import retrieval_model
    >>> from keras_aploss.embeddings import embed_at_scales
    >>> model = retrieval_model("small_resnet", units=8)
    >>> images = [np.zeros((40, 60, 3), "uint8"), np.zeros((60, 40, 3), "uint8")]
    >>> embed_at_scales(model, images, scales=(1.0, 0.7)).shape
    (2, 2, 8)
    """
    scales = _check(images, scales, batch_size, workers)
    progress = Progress(len(images), verbose)
    parts = []
    batches = _embedded_batches(model, images, scales, batch_size, workers, 0)
    with contextlib.closing(batches):
        for start, embeddings in batches:
            parts.append(embeddings)
            progress.update(start + embeddings.shape[1])
    return np.concatenate(parts, axis=1)


def extract_embeddings(
    model: keras.Model,
    images,
    path,
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
    the last ten seconds; the same call goes on from there and reads no image again.
    A finished file is returned as it is. What may not differ between two calls is in
    `path` + `.json`: number and paths of the images, how they are read, weights of the
    model, scales, power and batch size. That the files themselves are still the same
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
            image cannot be read, or an embedding is not finite. What was done before
            is kept. `find_unreadable(paths)` lists bad files beforehand.
        OSError: if the disk is full. What was done is kept.

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
    scales = _check(images, scales, batch_size, workers)
    check_power(power)
    settings = settings_of(
        model, images, scales=scales, power=power, batch_size=batch_size
    )
    file = EmbeddingsFile(path, len(images), settings)
    if file.is_finished:
        return file.finish()
    with file:
        start = file.done
        if start:
            logger.info("%s: %d of %d are done.", file.path, start, len(images))
        batches = _embedded_batches(model, images, scales, batch_size, workers, start)
        progress = Progress(len(images) - start, verbose)
        with contextlib.closing(batches):
            for _, embeddings in batches:
                file.append(combine_scales(embeddings, power=power))
                progress.update(file.done - start)
    return file.finish()


class Progress:
    """A bar with the rate of this call, which leaves out what was done before it."""

    def __init__(self, total: int, verbose: int):
        self.bar = keras.utils.Progbar(
            total, verbose=verbose, stateful_metrics=["images/s"], unit_name="image"
        )
        self.started = time.monotonic()

    def update(self, done: int) -> None:
        rate = done / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(done, [("images/s", rate)])


def _embedded_batches(
    model, images, scales, batch_size, workers, first
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the start of each batch and its `(S, B, D)` embeddings."""
    # Images of one size meet the model in batches of one size.
    full = min(batch_size, len(images))
    for start, batch in _batches_ahead(images, scales, batch_size, workers, first):
        yield start, _embed_batch(model, batch, full, images, start)


def _batches_ahead(images, scales, batch_size, workers, first):
    """Yield the start of each batch and its images, `[image][scale]`, one ahead."""
    pool = ThreadPoolExecutor(workers)

    def read_image(index):
        image = np.asarray(images[index])
        if image.ndim != 3:
            raise ValueError(
                "Expected images of shape (H, W, 3). Received: "
                f"images[{index}].shape={image.shape}."
            )
        return [scale_image(image, scale) for scale in scales]

    def read_batch(start):
        stop = min(start + batch_size, len(images))
        return [pool.submit(read_image, index) for index in range(start, stop)]

    try:
        following = read_batch(first)
        for start in range(first, len(images), batch_size):
            current, following = following, read_batch(start + batch_size)
            yield start, [future.result() for future in current]
    finally:
        pool.shutdown(cancel_futures=True)


def _embed_batch(model, batch, full, images, start):
    """Embed the images of a batch, `[image][scale]`: `(S, B, D)`."""
    embedded = [[None] * len(batch) for _ in batch[0]]
    for scale, row in enumerate(embedded):
        members = collections.defaultdict(list)  # of each shape
        for i, image in enumerate(batch):
            members[image[scale].shape].append(i)
        for group in members.values():
            pixels = np.stack([batch[i][scale] for i in group])
            if len(members) == 1 and len(group) < full:
                pixels = np.resize(pixels, (full, *pixels.shape[1:]))
            outputs = model.predict_on_batch(pixels)
            if getattr(outputs, "ndim", None) != 2:
                raise ValueError(
                    "Expected a model with one output of shape (B, D). Received: "
                    f"output={getattr(outputs, 'shape', type(outputs).__name__)}."
                )
            for i, embedding in zip(group, outputs, strict=False):
                row[i] = np.asarray(embedding, np.float32)
    embeddings = np.array(embedded)  # (S, B, D)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=(0, 2)))
    if len(bad):
        index = start + int(bad[0])
        paths = getattr(images, "paths", None)
        named = f" ({paths[index]!r})" if paths else ""
        raise ValueError(
            "Expected finite embeddings. Received: NaN or infinity for "
            f"images[{index}]{named}. Look for a diverged model or a division by a "
            "zero length."
        )
    return embeddings


def _check(images, scales, batch_size, workers):
    if batch_size < 1 or workers < 1 or len(images) < 1:
        raise ValueError(
            "Expected at least one image, `batch_size` >= 1 and `workers` >= 1. "
            f"Received: len(images)={len(images)}, batch_size={batch_size}, "
            f"workers={workers}."
        )
    return check_scales(scales)
