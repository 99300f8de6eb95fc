"""Images of any sizes through a model, batch by batch, at several scales.

Images are taken in order. Threads read the next batch, and scale it, while the model
works on this one. In a batch, images of one size go through the model together.

Dimension key: B images per batch, B' of them readable, S scales, D units.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_aploss.embeddings.input_size import check_image_size
from keras_aploss.embeddings.resumable import EmbeddedBatch
from keras_aploss.embeddings.scales import combine_scales
from keras_aploss.images import SkippedImage


class ReadableImages:
    """A sequence of image files, in which a bad one is a `SkippedImage`, no error.

    Args:
        images: `ImageFiles` or `OriginalImages`.
    """

    def __init__(self, images):
        self.images, self.paths = images, images.paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        from keras_aploss.images import reason_to_skip  # decodes, by TensorFlow

        path = self.paths[index]
        reason = reason_to_skip(path)
        if reason is None:
            try:
                return self.images[index]
            except (ValueError, OSError):
                # Damaged or deleted since it was looked at?
                reason = reason_to_skip(path)
                if reason is None:
                    raise
        return SkippedImage(path, reason)


def embedded_batches(
    model: keras.Model,
    images,
    part: range,
    *,
    scales: Sequence[float] = (1.0,),
    power: float | None = None,
    batch_size: int = 16,
    workers: int = 2,
) -> Iterator[EmbeddedBatch]:
    """Yield the embeddings of `images[part.start:part.stop]`, the scales combined.

    An image that is a `SkippedImage`, as in `ReadableImages`, is left out.
    """
    batches = embedded_at_scales(model, images, part, scales, batch_size, workers)
    with contextlib.closing(batches):
        for embeddings, skipped in batches:
            if embeddings.shape[1]:
                vectors = combine_scales(embeddings, power=power)
            else:
                vectors = np.zeros((0, 0), np.float32)
            yield EmbeddedBatch(vectors, skipped)


def embedded_at_scales(
    model, images, part, scales, batch_size, workers
) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
    """Yield the `(S, B', D)` embeddings of each batch, and what was left out of it.

    The skipped images are given as their positions in the batch and the reasons.
    """
    # Images of one size meet the model in batches of one size.
    full = min(batch_size, len(part))
    for start, batch in _batches_ahead(images, part, scales, batch_size, workers):
        bad = {i: x.reason for i, x in enumerate(batch) if isinstance(x, SkippedImage)}
        readable = {start + i: x for i, x in enumerate(batch) if i not in bad}
        embeddings = np.zeros((len(scales), 0, 0), np.float32)
        if readable:
            embeddings = _embed_batch(model, list(readable.values()), full)
            _check_finite(embeddings, images, list(readable))
        yield embeddings, bad


def _batches_ahead(images, part, scales, batch_size, workers):
    """Yield the start of each batch and its images, `[image][scale]`, one ahead."""

    def read_image(index):
        image = images[index]
        if isinstance(image, SkippedImage):
            return image
        image = np.asarray(image)
        if image.ndim != 3:
            raise ValueError(
                "Expected images of shape (H, W, 3). Received: "
                f"images[{index}].shape={image.shape}."
            )
        return [scale_image(image, scale) for scale in scales]

    from keras_aploss.images import scale_image  # by TensorFlow

    yield from read_ahead(read_image, part, batch_size, workers)


def read_ahead(
    read: Callable[[int], Any], part: range, batch_size: int, workers: int
) -> Iterator[tuple[int, list]]:
    """Yield the start of each batch and `read(index)` of its images.

    Threads read the next batch while the caller works on this one. Closing the iterator
    ends them.
    """
    pool = ThreadPoolExecutor(workers)

    def read_batch(start):
        stop = min(start + batch_size, part.stop)
        return [pool.submit(read, index) for index in range(start, stop)]

    try:
        following = read_batch(part.start)
        for start in range(part.start, part.stop, batch_size):
            current, following = following, read_batch(start + batch_size)
            yield start, [future.result() for future in current]
    finally:
        pool.shutdown(cancel_futures=True)


def embed_full_batch(model: keras.Model, pixels: np.ndarray, size: int) -> np.ndarray:
    """The `(B, D)` float32 embeddings of B images of one shape.

    Fewer than `size` are filled up with copies, whose embeddings are dropped again, so
    that the model meets one shape only.
    """
    if pixels.ndim == 4:
        check_image_size(model, pixels.shape[1:3])
    count = len(pixels)
    if count < size:
        pixels = np.resize(pixels, (size, *pixels.shape[1:]))
    outputs = model.predict_on_batch(pixels)
    if getattr(outputs, "ndim", None) != 2:
        raise ValueError(
            "Expected a model with one output of shape (B, D). Received: "
            f"output={getattr(outputs, 'shape', type(outputs).__name__)}."
        )
    return np.asarray(outputs, np.float32)[:count]


def _embed_batch(model, batch, full):
    """Embed the images of a batch, `[image][scale]`: `(S, B, D)`."""
    embedded = [[None] * len(batch) for _ in batch[0]]
    for scale, row in enumerate(embedded):
        members = collections.defaultdict(list)  # of each shape
        for i, image in enumerate(batch):
            members[image[scale].shape].append(i)
        for group in members.values():
            pixels = np.stack([batch[i][scale] for i in group])
            size = full if len(members) == 1 else len(group)
            outputs = embed_full_batch(model, pixels, size)
            for i, embedding in zip(group, outputs, strict=True):
                row[i] = embedding
    return np.array(embedded)


def _check_finite(embeddings, images, indices):
    """Refuse embeddings that are not finite, and name the first of the images."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=(0, 2)))
    if len(bad):
        index = indices[bad[0]]
        paths = getattr(images, "paths", None)
        named = f" ({paths[index]!r})" if paths else ""
        raise ValueError(
            "Expected finite embeddings. Received: NaN or infinity for "
            f"images[{index}]{named}. Look for a diverged model or a division by a "
            "zero length."
        )
