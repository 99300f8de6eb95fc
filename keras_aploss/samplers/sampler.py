"""A dataset for `model.fit` that draws class-balanced batches and reads their images.

The drawing is in `indices`, the replacement of unreadable images in `replacement`.

Dimension key: `N` images, `P` classes per batch, `K` images per class, `q` images of a
chunk, `H, W` height and width.
"""

import concurrent.futures
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_aploss.samplers.indices import ClassBalancedIndices
from keras_aploss.samplers.replacement import ReplacingReader

# Stream of random numbers, [seed, stream, ...]: 0 and 1 draw classes and images.
_AUGMENTATION = 2


class ClassBalancedSampler(keras.utils.PyDataset):
    """Batches of `classes_per_batch` classes with `images_per_class` images each.

    Each batch is `(images (P K, H, W, 3), labels (P K,) int64)`, class by class. Over
    an epoch, every class is visited before any is visited again, and all images of a
    class are drawn equally often: see `keras_aploss.samplers.ClassBalancedIndices`.

    Train with `model.fit(sampler, shuffle=False)`. By default, Keras takes the batches
    of an epoch in an order of its own, which is not seeded here.

    If an image cannot be read when it is drawn (its file was deleted or damaged since
    the start), it is logged, listed in `unreadable` and replaced by another of its
    class.

    Args:
        images: anything with `images[int]` giving an array `(H, W, 3)`: an array
            `(N, H, W, 3)`, or lazily decoded files.
        labels: `(N,)` integer class labels. Images with negative labels (distractors)
            are not drawn.
        classes_per_batch: number of classes in a batch, `P`.
        images_per_class: number of images of each of them, `K`, at least 2.
        steps_per_epoch: batches per epoch; None takes as many as hold `N` images. Give
            it here, not to `fit`, which would mix the batches of two epochs.
        augment: function `(image, rng) -> image`, such as `Augmentation`; `rng` is a
            `numpy.random.Generator` of its own for each (seed, epoch, step, position).
        seed: non-negative integer.
        initial_epoch: number of the first epoch, when a run is resumed.
        references: yield `(references (P K, 4), labels)`, int32, instead of images. The
            method `load` reads the images of any of them, `workers` at a time:
            `MultistageTrainer(..., load=sampler.load)` reads a batch chunk by chunk.
        shard: `(i, n)`: yield only part `i`, from 0, of `n` equal parts of each batch.
            Where `n` processes train together, each reads its own part.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of
            `keras.utils.PyDataset`.

    Raises:
        ValueError: labels are not integers, not one per image or (on JAX, which has 32
            bits) too large for the backend, there are fewer
            classes than `classes_per_batch`, or `shard` does not divide the batch.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ClassBalancedSampler
    >>> images = np.zeros((12, 32, 32, 3), "uint8")
    >>> labels = np.repeat([0, 1, 2], 4)
    >>> sampler = ClassBalancedSampler(
    ...     images, labels, classes_per_batch=2, images_per_class=3, seed=1
    ... )
    >>> len(sampler)
    2
    >>> batch, batch_labels = sampler[0]
    >>> batch.shape
    (6, 32, 32, 3)
    >>> np.unique(batch_labels, return_counts=True)[1]
    array([3, 3])
    """

    def __init__(
        self,
        images: Sequence,
        labels: Sequence[int],
        *,
        classes_per_batch: int,
        images_per_class: int,
        steps_per_epoch: int | None = None,
        augment: Callable | None = None,
        seed: int = 0,
        initial_epoch: int = 0,
        references: bool = False,
        shard: tuple[int, int] = (0, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if np.shape(labels) != (len(images),):
            raise ValueError(
                "Expected one label per image. Received: labels of shape "
                f"{np.shape(labels)} for {len(images)} images."
            )
        self.indices = ClassBalancedIndices(
            labels,
            classes_per_batch=classes_per_batch,
            images_per_class=images_per_class,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
        )
        self.labels = _labels_of_backend(self.indices.labels)
        self.augment = augment
        self.epoch = initial_epoch
        self.references = references
        self._begun = False
        self._reader = ReplacingReader(images, self.indices)
        self._rows = _rows_of_shard(shard, self.indices.batch_size)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, step):
        """Return batch number `step` of the current epoch: images and labels.

        Raises:
            IndexError: the epoch has no such batch. It also ends a `for` loop over
                what has `__getitem__` alone.
        """
        if not 0 <= step < len(self):
            raise IndexError(
                f"Expected a step from 0 to {len(self) - 1}. Received: step={step}. "
                "`batch(epoch, step)` gives those of another epoch."
            )
        return self.batch(self.epoch, step)

    @property
    def unreadable(self) -> list[int]:
        """Numbers of the images that could not be read when they were drawn."""
        return self._reader.unreadable

    def on_epoch_begin(self):
        """Note that an epoch has begun; Keras calls this."""
        self._begun = True

    def on_epoch_end(self):
        """Go on to the next epoch; Keras calls this.

        Keras calls it once more when `fit` starts, before any epoch has begun: that
        does not count. On JAX it also draws a first batch, which does. To be sure of
        the number, set `sampler.epoch` in a callback at the beginning of each epoch.
        """
        self.epoch += self._begun
        self._begun = False

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and labels of a batch, a function of (epoch, step).

        With `references=True`, references stand for the images; with `shard`, only the
        rows of that part are returned.
        """
        indices = self.indices.batch(epoch, step)[self._rows]
        labels = self.labels[indices]
        positions = np.arange(self.indices.batch_size)[self._rows]
        references = np.stack(
            [
                np.full_like(positions, epoch),
                np.full_like(positions, step),
                positions,
                indices,
            ],
            axis=1,
        ).astype("int32")  # (P K, 4)
        if self.references:
            return references, labels
        return _stack(map(self._read, references)), labels

    def load(self, references: np.ndarray) -> np.ndarray:
        """Return the images of references `(q, 4)`, the same ones each time.

        Raises:
            ValueError: no image of a class can be read, or one cannot be read any more
                that could be earlier in the same step: the two passes over a batch
                would see different images.
        """
        self._reader.forget_finished_steps()
        with concurrent.futures.ThreadPoolExecutor(self.workers or 1) as threads:
            return _stack(threads.map(self._read_again, np.asarray(references)))

    def _read(self, reference):
        epoch, step, _, index = map(int, reference)
        return self._augmented(self._reader.read(epoch, step, index)[1], reference)

    def _read_again(self, reference):
        image = self._reader.read_again(*map(int, reference))
        return self._augmented(image, reference)

    def _augmented(self, image, reference):
        if self.augment is None:
            return image
        epoch, step, position, _ = map(int, reference)
        seeds = [self.indices.seed, _AUGMENTATION, epoch, step, position]
        return self.augment(image, np.random.default_rng(seeds))


def _labels_of_backend(labels):
    """The labels; raise if Keras would cut them off on their way to the loss."""
    dtype = keras.ops.convert_to_tensor(labels[:0]).dtype
    held = np.iinfo(keras.backend.standardize_dtype(dtype))
    if len(labels) and not held.min <= labels.min() <= labels.max() <= held.max:
        raise ValueError(
            f"Expected labels that {held.dtype} holds, as Keras on "
            f"{keras.backend.backend()} does. Received: labels from {labels.min()} to "
            f"{labels.max()}. Number the classes: `np.unique(labels, "
            "return_inverse=True)[1]`, or set JAX_ENABLE_X64=1."
        )
    return labels


def _stack(images):
    images = list(images)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected images of one size in a batch. Received: {sorted(shapes)}. "
            "Resize them, or give an `augment` that crops to one size."
        )
    return np.stack(images)


def _rows_of_shard(shard, batch_size):
    part, count = shard
    if not 0 <= part < count or batch_size % count:
        raise ValueError(
            "Expected `shard` to be (i, n), part i from 0 of n equal parts of a batch. "
            f"Received: shard={shard!r} for batches of {batch_size} images. Choose "
            f"`classes_per_batch * images_per_class` to be a multiple of {count}."
        )
    size = batch_size // count
    return slice(part * size, (part + 1) * size)
