r"""The classes of a batch: their numbers, their sizes, and the positives of an image.

The images of a class have a cyclic order, so that the k-th positives of all images are
one gather: the positives of an image are those 1, 2, …, ``K - 1`` places behind it.

Dimension key: ``B`` batch, ``q`` some of its images, ``K`` images of a class.
"""

from typing import Any, NamedTuple

from keras import ops


def class_ids(labels):
    """Number the classes of a batch: `(B,)` int32 from 0 to B - 1, -1 for distractors.

    Unlike labels, these survive a cast to float32, which Keras does to all targets.

    >>> [int(i) for i in class_ids(ops.convert_to_tensor([900, -4, 7, 900]))]
    [2, -1, 1, 2]
    """
    order = ops.argsort(labels)
    in_order = ops.take(labels, order)
    is_first = ops.cast(ops.not_equal(in_order[1:], in_order[:-1]), "int32")
    ids = ops.cumsum(ops.pad(is_first, ((1, 0),)))
    ids = ops.take(ids, ops.argsort(order))
    return ops.where(labels < 0, -1, ops.cast(ids, "int32"))


class Classmates(NamedTuple):
    """The images of a batch sorted by class, and the places of some of them there.

    Attributes:
        by_class: the images, class after class: `(B,)`. Distractors count as one class.
        place: the place of each image in `by_class`: `(q,)`.
        start: the place of the first image of its class: `(q,)`.
        size: the number of images of its class, K: `(q,)`.

    >>> classmates = Classmates.of(ops.convert_to_tensor([1, 0, 1, 0, 1]))
    >>> [[int(i) for i in classmates.kth(k)] for k in (1, 2)]  # 0 → 2 → 4, 1 → 3
    [[2, 3, 4, 1, 0], [4, 1, 0, 3, 2]]
    """

    by_class: Any
    place: Any
    start: Any
    size: Any

    @classmethod
    def of(cls, ids):
        """The classmates of all images `(B,)`, from their `class_ids`."""
        num_segments = ops.shape(ids)[0] + 1  # the first: distractors
        sizes = ops.segment_sum(ops.ones_like(ids), ids + 1, num_segments=num_segments)
        by_class = ops.cast(ops.argsort(ids), "int32")
        place = ops.cast(ops.argsort(by_class), "int32")
        start = ops.take(ops.cumsum(sizes) - sizes, ids + 1)
        return cls(by_class, place, start, ops.take(sizes, ids + 1))

    def of_images(self, first, count):
        """The same for `count` images from `first` on."""
        place, start, size = (
            ops.slice(x, (first,), (count,))
            for x in (self.place, self.start, self.size)
        )
        return Classmates(self.by_class, place, start, size)

    def kth(self, k):
        """The k-th image of its class behind each: `(q,)`; for k < K another one."""
        step = ops.mod(self.place - self.start + k, self.size)
        return ops.take(self.by_class, self.start + step)
