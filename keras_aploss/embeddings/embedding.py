"""Embeddings of many images: any model, any sequence of images, in order.

The problem: a test set does not fit the memory of the model, and often not the memory
of the machine. Images are read and embedded batch by batch; only embeddings are kept.

Dimension key: N images, B images per batch, D units.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from keras_aploss.embeddings.batches import embed_full_batch, read_ahead
from keras_aploss.embeddings.input_size import check_images
from keras_aploss.evaluation import check_finite


def embed(
    model: keras.Model,
    images,
    *,
    batch_size: int = 64,
    workers: int = 1,
    verbose: int = 0,
) -> np.ndarray:
    """Embed images, in order.

    While the model works on a batch, threads read the next one. The last batch is
    filled up with copies, which are dropped again: the model meets one shape only.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        images: an array `(N, H, W, 3)`, or a sequence whose `images[i]` reads one
            `(H, W, 3)` array, all of one shape (`data.ImageFiles`).
        batch_size: images per call of the model.
        workers: threads that read the images of a sequence.
        verbose: 1 shows a progress bar.

    Returns:
        `(N, D)` float32.

    Raises:
        ValueError: no image, images of different sizes or of one that the model is not
            built for, or an embedding that is not finite.

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss import embed
    >>> model = keras.Sequential([keras.layers.GlobalAveragePooling2D()])
    >>> embed(model, np.full((3, 8, 8, 3), 7, np.uint8), batch_size=2)
    array([[7., 7., 7.], [7., 7., 7.], [7., 7., 7.]], dtype=float32)
    """
    if batch_size < 1 or workers < 1 or len(images) < 1:
        raise ValueError(
            "Expected at least one image, `batch_size` >= 1 and `workers` >= 1. "
            f"Received: len(images)={len(images)}, batch_size={batch_size}, "
            f"workers={workers}."
        )
    check_images(model, images)
    progress = keras.utils.Progbar(-(-len(images) // batch_size), verbose=verbose)
    embeddings = []
    with contextlib.closing(_image_batches(images, batch_size, workers)) as batches:
        for batch in batches:
            size = batch_size if embeddings else len(batch)
            embeddings.append(embed_full_batch(model, batch, size))
            progress.update(len(embeddings))
    embeddings = np.concatenate(embeddings)
    check_finite(embeddings, "model(images)")
    return embeddings


def _image_batches(images, batch_size: int, workers: int) -> Iterator[np.ndarray]:
    """Yield batches; those of a lazy sequence are read one batch ahead."""
    if isinstance(images, np.ndarray) and images.dtype != object:
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]
        return

    def read(index):
        return np.asarray(images[index])

    part, shape = range(len(images)), None
    with contextlib.closing(read_ahead(read, part, batch_size, workers)) as batches:
        for start, batch in batches:
            shape = batch[0].shape if shape is None else shape
            for i, image in enumerate(batch, start):
                if image.shape != shape:
                    raise ValueError(
                        f"Expected images of one shape, {shape} as images[0]. "
                        f"Received: images[{i}].shape={image.shape}. Resize or crop "
                        "them to one shape."
                    )
            yield np.stack(batch)
