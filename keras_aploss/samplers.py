"""Batches in which every image has positives: some classes, some images of each.

A batch of random images holds hardly two of one class, and a query without positives
teaches nothing. A class-balanced batch draws `P` classes and `K` images of each, so
each of its `P K` queries has `K` positives (itself among them).

Every batch is a function of (seed, epoch, step) and of nothing else: threads,
processes, restarts and resumed runs all draw the same one.
"""

import concurrent.futures
import itertools
import logging
from collections.abc import Callable, Sequence

import keras
import numpy as np

logger = logging.getLogger(__name__)


class ClassBalancedSampler(keras.utils.PyDataset):
    """Batches of `classes_per_batch` classes with `images_per_class` images each.

    Over an epoch, every class is visited before any is visited again, and no class
    twice in a batch (train with `model.fit(sampler, shuffle=False)`: by default, Keras
    takes the batches of an epoch in an order of its own, not seeded here).

    The images of a class are dealt out like a deck of cards, shuffled anew when fewer
    than `images_per_class` are left: no image twice in a batch, all equally often. Only
    a class with fewer images than `images_per_class` repeats them within a batch (as
    evenly as possible; with augmentation the copies differ); the log says how many
    such classes there are.

    An image that cannot be read when its turn comes (a file deleted or damaged since
    the start) is logged, listed in `unreadable` and replaced by another of its class.

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
            method `load` makes the images of any of them, `workers` at a time:
            `MultistageTrainer(..., load=sampler.load)` reads a batch chunk by chunk.
        share: `(i, n)`: yield part number `i`, from 0, of `n` equal parts of each
            batch. Where `n` processes train together, each reads its own part only.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of
            `keras.utils.PyDataset`.

    Each batch is `(images (P K, H, W, 3), labels (P K,) int64)`, class by class.

    Raises:
        ValueError: if labels are not integers or not one per image, there are fewer
            classes than `classes_per_batch`, or `share` does not divide the batch.

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
        share: tuple[int, int] = (0, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        labels = _check_labels(labels, len(images))
        self.classes = np.unique(labels[labels >= 0])
        if not 1 <= classes_per_batch <= len(self.classes):
            raise ValueError(
                f"Expected `classes_per_batch` between 1 and the {len(self.classes)} "
                f"classes there are. Received: classes_per_batch={classes_per_batch}."
            )
        if images_per_class < 2:
            raise ValueError(
                "Expected `images_per_class` of at least 2: a query needs a positive "
                f"besides itself. Received: images_per_class={images_per_class}."
            )
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(
                "Expected `steps_per_epoch` of at least 1, or None. Received: "
                f"steps_per_epoch={steps_per_epoch}."
            )
        self.images = images
        self.labels = labels.astype("int64")
        self.classes_per_batch = classes_per_batch
        self.images_per_class = images_per_class
        self.augment = augment
        self.seed = seed
        self.epoch = initial_epoch
        self.references = references
        self._begun = False
        # Which image stands for each position of the steps that `load` is at.
        self._chosen: dict[tuple[int, int], dict[int, int]] = {}
        self.unreadable: list[int] = []
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        starts = np.searchsorted(labels[order], self.classes)
        self._members = np.split(order, starts[1:])  # image numbers of each class
        batch_size = classes_per_batch * images_per_class
        self._own = _rows_of_share(share, batch_size)
        self.steps_per_epoch = steps_per_epoch or -(-len(order) // batch_size)
        small = sum(len(members) < images_per_class for members in self._members)
        if small:
            logger.warning(
                "%d of %d classes have fewer than images_per_class=%d images; theirs "
                "are repeated within a batch.",
                small,
                len(self.classes),
                images_per_class,
            )

    def __len__(self):
        return self.steps_per_epoch

    def __getitem__(self, step):
        """Return batch number `step` of the current epoch: images and labels."""
        return self.batch(self.epoch, step)

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

        With `references=True` the images are references, with `share` there are those
        of the share only.
        """
        indices = self.indices(epoch, step)
        positions = np.arange(len(indices))[self._own]
        references = np.stack(
            [
                np.full_like(positions, epoch),
                np.full_like(positions, step),
                positions,
                indices[self._own],
            ],
            axis=1,
        ).astype("int32")  # (P K, 4)
        labels = self.labels[indices[self._own]]
        if self.references:
            return references, labels
        return _stack(self._image(reference)[1] for reference in references), labels

    def load(self, references: np.ndarray) -> np.ndarray:
        """Return the images of references `(q, 4)`, the same ones each time.

        Raises:
            ValueError: if no image of a class can be read; if one cannot be read any
                more that could be earlier in the same step: the two passes over a batch
                would see different images.
        """
        references = np.asarray(references)
        for step in list(self._chosen)[:-2]:  # the present one, and one read ahead
            self._chosen.pop(step, None)

        def read(reference):
            # Of all that threads do here, `setdefault` is one step.
            chosen = self._chosen.setdefault(tuple(reference[:2]), {})
            number, image = self._image(reference, chosen.get(reference[2]))
            chosen[reference[2]] = number
            return image

        with concurrent.futures.ThreadPoolExecutor(self.workers or 1) as threads:
            return _stack(threads.map(read, references))

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Return the image numbers `(P K,)` of a batch, a function of (epoch, step)."""
        classes_drawn = self._classes_drawn(epoch, step)
        visits = self._visits(epoch, step)
        return np.concatenate(
            [
                self._deal(number, visits[number])
                for number in classes_drawn[step * self.classes_per_batch :]
            ]
        )

    def _classes_drawn(self, epoch, step):
        """Class numbers drawn in this epoch up to and with this step, in order."""
        rng = np.random.default_rng([self.seed, 0, epoch])
        needed = (step + 1) * self.classes_per_batch
        drawn = np.empty(0, "int64")
        while len(drawn) < needed:
            shuffled = rng.permutation(len(self.classes))
            # A batch that two rounds share must not get a class from both.
            in_batch = drawn[len(drawn) - len(drawn) % self.classes_per_batch :]
            twice = np.isin(shuffled, in_batch)
            drawn = np.concatenate([drawn, shuffled[~twice], shuffled[twice]])
        return drawn[:needed]

    def _visits(self, epoch, step):
        """How often each class was visited before this step, over all epochs.

        Classes may differ by one in the visits of an epoch; all are given the larger
        number, so that no earlier epoch has to be drawn again to count them.
        """
        num_classes = len(self.classes)
        per_epoch = -(-self.steps_per_epoch * self.classes_per_batch // num_classes)
        before = self._classes_drawn(epoch, step)[: step * self.classes_per_batch]
        return epoch * per_epoch + np.bincount(before, minlength=num_classes)

    def _deal(self, number, visit):
        """Image numbers `(K,)` of a class at its visit number `visit`."""
        members, count = self._members[number], self.images_per_class
        hands = max(len(members) // count, 1)  # hands dealt before a new shuffle
        shuffle, hand = divmod(int(visit), hands)
        rng = np.random.default_rng([self.seed, 1, int(number), shuffle])
        shuffled = rng.permutation(members)
        if len(members) < count:
            return np.resize(shuffled, count)
        return shuffled[hand * count : (hand + 1) * count]

    def _image(self, reference, chosen=None):
        """Read and augment an image, or another of its class that is not drawn.

        Returns its number, and the pixels. With `chosen`, no other image will do.
        """
        epoch, step, position, index = (int(number) for number in reference)
        others = self._others(epoch, step, index) if chosen is None else []
        for number in itertools.chain([index if chosen is None else chosen], others):
            try:
                image = np.asarray(self.images[int(number)])
            except (OSError, ValueError) as error:
                reason = error
                if int(number) not in self.unreadable:
                    self.unreadable.append(int(number))
                    logger.warning("Image %d left out: %s", number, error)
            else:
                rng = np.random.default_rng([self.seed, 2, epoch, step, position])
                return int(number), self.augment(image, rng) if self.augment else image
        if chosen is not None:
            raise ValueError(
                "Expected to read an image again that could be read earlier in the "
                f"same step. Received: image {chosen}: {reason}. The gradient of this "
                "step would be wrong. Resume the training from its last checkpoint: "
                "the image is then replaced from the start."
            )
        raise ValueError(
            "Expected at least one readable image in each class. Received: class "
            f"{self.labels[index]}, none of whose images can be read."
        )

    def _others(self, epoch, step, index):
        """The others of its class, those first that are not in the batch."""
        batch = self.indices(epoch, step)
        members = self._members[np.searchsorted(self.classes, self.labels[index])]
        members = np.roll(members, -int(np.searchsorted(members, index)))[1:]
        drawn = np.isin(members, batch)
        yield from [*members[~drawn], *members[drawn]]


def _stack(images):
    images = list(images)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected images of one size in a batch. Received: {sorted(shapes)}. "
            "Resize them, or give an `augment` that crops to one size."
        )
    return np.stack(images)


def _rows_of_share(share, batch_size):
    part, count = share
    if not 0 <= part < count or batch_size % count:
        raise ValueError(
            "Expected `share` to be (i, n), part i from 0 of n equal parts of a batch. "
            f"Received: share={share!r} for batches of {batch_size} images. Choose "
            f"`classes_per_batch * images_per_class` to be a multiple of {count}."
        )
    size = batch_size // count
    return slice(part * size, (part + 1) * size)


def _check_labels(labels, num_images):
    labels = np.asarray(labels)
    if labels.shape != (num_images,):
        raise ValueError(
            "Expected one label per image. Received: labels of shape "
            f"{labels.shape} for {num_images} images."
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer class labels. Received: labels of dtype {labels.dtype}. "
            "Number the classes, e.g. with `np.unique(labels, return_inverse=True)[1]`."
        )
    return labels
