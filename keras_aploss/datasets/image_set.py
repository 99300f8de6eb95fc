"""`ImageSet`, images with labels, and its split into training and test classes.

Dimension key: N images, S `image_size`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.images import ImageFiles, SkippedImage


class ImageSet(NamedTuple):
    """Images and their labels.

    Attributes:
        images: (N, S, S, 3) array of `uint8`, or `ImageFiles` that decode on demand.
        labels: (N,) array of `int64`; -1 marks a distractor, an image of no class.
        class_names: the name of label `k` is `class_names[k]`. Sets split from one
            another share this list, and so one numbering.
        skipped: the files, or whole classes, that were left out, and the reasons.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ImageSet
    >>> images = np.zeros((3, 32, 32, 3), "uint8")
    >>> birds = ImageSet(images, np.array([0, 1, 1]), ["crow", "jay"])
    >>> [birds.class_names[label] for label in birds.labels]
    ['crow', 'jay', 'jay']
    """

    images: np.ndarray | ImageFiles
    labels: np.ndarray
    class_names: list[str]
    skipped: Sequence[SkippedImage] = ()


def split_classes(
    image_set: ImageSet, *, test_fraction: float = 0.25, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """Hold out whole classes for the test.

    Args:
        image_set: an `ImageSet` of two classes or more. Negative labels (distractors)
            go to the test set.
        test_fraction: fraction of the classes, above 0 and below 1; at least one class
            goes to either side.
        seed: seed of the choice.

    Returns:
        The pair (training set, test set). Both keep the numbering and the `skipped`.

    Raises:
        ValueError: `test_fraction` is out of range, or there are not two classes.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ImageSet, split_classes
    >>> images = np.zeros((8, 4, 4, 3), "uint8")
    >>> birds = ImageSet(images, np.repeat([0, 1], 4), ["crow", "jay"])
    >>> train, test = split_classes(birds, test_fraction=0.5)
    >>> sorted([*train.labels, *test.labels]) == birds.labels.tolist()
    True
    >>> set(train.labels) & set(test.labels)
    set()
    """
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"Expected a fraction above 0 and below 1. Received: {test_fraction=}."
        )
    classes = np.unique(image_set.labels[image_set.labels >= 0])
    if len(classes) < 2:
        raise ValueError(
            "Expected at least two classes, one for either side. Received: "
            f"{len(classes)} in image_set.labels."
        )
    count = int(np.clip(round(test_fraction * len(classes)), 1, len(classes) - 1))
    order = np.random.default_rng(seed).permutation(len(classes))
    is_test = np.isin(image_set.labels, classes[order[:count]]) | (image_set.labels < 0)

    def part(indices):
        images, labels, class_names, skipped = image_set
        return ImageSet(images[indices], labels[indices], class_names, skipped)

    return part(np.flatnonzero(~is_test)), part(np.flatnonzero(is_test))
