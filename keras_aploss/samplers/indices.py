"""Draw batches of image numbers: some classes, and some images of each.

A batch of random images hardly holds two of one class, and a query without positives
contributes no gradient. A class-balanced batch draws `P` classes and `K` images of
each, so each of its `P K` queries has `K` positives (itself among them).

Each batch is a function of (seed, epoch, step) and of nothing else: threads, processes
and resumed runs all draw the same one. Only NumPy is needed, so the indices can feed
any loader.

Dimension key: `N` images, `P` classes per batch, `K` images per class.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

logger = logging.getLogger(__name__)

# Each use of random numbers has a stream of its own, [seed, stream, ...].
_CLASSES, _IMAGES = 0, 1


class ClassBalancedIndices:
    """Batches of image numbers `(P K,)`: `P` classes with `K` images each.

    Classes: a random order of all classes is drawn, then another, and so on; batches
    take `P` after `P` of them. Every class is visited before any is visited again, and
    no class is twice in a batch.

    Images: those of a class are shuffled and taken `K` at a time, and shuffled anew
    when fewer than `K` are left. No image is twice in a batch, and all are drawn
    equally often. A class of fewer than `K` images repeats them within a batch, as
    evenly as possible; a warning in the log counts such classes.

    Iterating yields the `steps_per_epoch` batches of the current epoch, as lists.

    Args:
        labels: `(N,)` integer class labels. Images with negative labels (distractors)
            are not drawn.
        classes_per_batch: number of classes in a batch, `P`.
        images_per_class: number of images of each of them, `K`, at least 2.
        steps_per_epoch: batches per epoch; None: `N / (P K)`, rounded up, where `N`
            counts the images that can be drawn.
        seed: non-negative integer.

    Raises:
        ValueError: the labels are not integers of shape `(N,)`, or there are fewer
            classes than `classes_per_batch`.

    Example:
        >>> from keras_aploss.samplers import ClassBalancedIndices
        >>> indices = ClassBalancedIndices(
        ...     [0, 0, 0, 1, 1, 1, 2, 2, 2], classes_per_batch=2, images_per_class=2
        ... )
        >>> for epoch in range(2):
        ...     indices.set_epoch(epoch)
        ...     for batch in indices:
        ...         print(epoch, batch)
        0 [7, 6, 2, 0]
        0 [3, 4, 8, 7]
        0 [1, 2, 3, 5]
        1 [4, 5, 6, 8]
        1 [0, 2, 5, 3]
        1 [8, 6, 0, 1]

    With PyTorch, it is a batch sampler:

        loader = torch.utils.data.DataLoader(dataset, batch_sampler=indices)
        for epoch in range(epochs):
            indices.set_epoch(epoch)
            for images, labels in loader:
                ...

    With `tf.data`, a generator of endless epochs:

        def batches(first_epoch=0):
            for epoch in itertools.count(first_epoch):
                indices.set_epoch(epoch)
                yield from indices

        spec = tf.TensorSpec([indices.batch_size], tf.int64)
        dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
        dataset = dataset.map(read).prefetch(1)  # `read`: (P K,) to images, labels
        model.fit(dataset, steps_per_epoch=len(indices), epochs=epochs)
    """

    def __init__(
        self,
        labels: Sequence[int],
        *,
        classes_per_batch: int,
        images_per_class: int,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ):
        labels = self.labels = _checked_labels(labels)
        self.classes = np.unique(labels[labels >= 0])
        self.classes_per_batch = classes_per_batch
        self.images_per_class = images_per_class
        _check_sizes(
            classes_per_batch, images_per_class, steps_per_epoch, len(self.classes)
        )
        self.batch_size = classes_per_batch * images_per_class
        self.seed = seed
        self.epoch = 0
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        starts = np.searchsorted(labels[order], self.classes)
        self._members = np.split(order, starts[1:])  # image numbers of each class
        self.steps_per_epoch = steps_per_epoch or -(-len(order) // self.batch_size)
        small = sum(len(members) < images_per_class for members in self._members)
        if small:
            logger.warning(
                "%d of %d classes have fewer than images_per_class=%d images; their "
                "images are repeated within a batch.",
                small,
                len(self.classes),
                images_per_class,
            )

    def __len__(self):
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the current epoch."""
        epoch = self.epoch
        for step in range(len(self)):
            yield self.batch(epoch, step).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; the first is 0."""
        self.epoch = epoch

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """Return the image numbers `(P K,)` of a batch, class by class."""
        classes_drawn = self._draw_classes(epoch, step)
        visits = self._count_visits(epoch, step)
        return np.concatenate(
            [
                self._draw_images(number, visits[number])
                for number in classes_drawn[step * self.classes_per_batch :]
            ]
        )

    def members(self, label: int) -> np.ndarray:
        """Return the numbers of all images of a class, in ascending order."""
        return self._members[np.searchsorted(self.classes, label)]

    def _draw_classes(self, epoch, step):
        """Class numbers drawn in this epoch up to and with this step, in order."""
        rng = np.random.default_rng([self.seed, _CLASSES, epoch])
        needed = (step + 1) * self.classes_per_batch
        drawn = np.empty(0, "int64")
        while len(drawn) < needed:
            shuffled = rng.permutation(len(self.classes))
            # A batch across two orders must not get a class from both: those that it
            # has already go to the end of the second.
            in_batch = drawn[len(drawn) - len(drawn) % self.classes_per_batch :]
            twice = np.isin(shuffled, in_batch)
            drawn = np.concatenate([drawn, shuffled[~twice], shuffled[twice]])
        return drawn[:needed]

    def _count_visits(self, epoch, step):
        """Number of visits of each class before this step, over all epochs.

        Classes may differ by one in the visits of an epoch; all are given the larger
        number, so that no earlier epoch has to be drawn again to count them.
        """
        num_classes = len(self.classes)
        per_epoch = -(-self.steps_per_epoch * self.classes_per_batch // num_classes)
        before = self._draw_classes(epoch, step)[: step * self.classes_per_batch]
        return epoch * per_epoch + np.bincount(before, minlength=num_classes)

    def _draw_images(self, number, visit):
        """Image numbers `(K,)` of a class at its visit number `visit`."""
        members, count = self._members[number], self.images_per_class
        visits_per_shuffle = max(len(members) // count, 1)
        shuffle, part = divmod(int(visit), visits_per_shuffle)
        rng = np.random.default_rng([self.seed, _IMAGES, int(number), shuffle])
        shuffled = rng.permutation(members)
        if len(members) < count:
            return np.resize(shuffled, count)
        return shuffled[part * count : (part + 1) * count]


def _checked_labels(labels):
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected integer class labels of shape (N,). Received: labels of dtype "
            f"{labels.dtype} and shape {labels.shape}. Number the classes, e.g. with "
            "`np.unique(labels, return_inverse=True)[1]`."
        )
    if labels.dtype == "uint64" and labels.max(initial=0) > np.iinfo("int64").max:
        raise ValueError(
            "Expected labels below 2**63. Received: the label "
            f"{labels.max()}, which no int64 holds. Number the classes, e.g. with "
            "`np.unique(labels, return_inverse=True)[1]`."
        )
    return labels.astype("int64")


def _check_sizes(classes_per_batch, images_per_class, steps_per_epoch, num_classes):
    if not 1 <= classes_per_batch <= num_classes:
        raise ValueError(
            f"Expected `classes_per_batch` between 1 and the {num_classes} "
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
