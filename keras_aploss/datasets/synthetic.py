"""The built-in data set: photographs of invented buildings, drawn in seconds."""

import numpy as np

from keras_aploss.datasets.image_set import ImageSet
from keras_aploss.datasets.landmarks import landmark_views

# Test landmarks are numbered from here: the same ones for any number of training ones.
_FIRST_TEST_LANDMARK = 1_000_000


def synthetic_landmarks(
    num_landmarks: int = 200,
    views_per_landmark: int = 10,
    image_size: int = 64,
    seed: int = 0,
    *,
    num_test_landmarks: int = 50,
) -> tuple[ImageSet, ImageSet]:
    """Draw photographs of invented buildings: a training and a test set.

    A view depends on `seed`, its landmark and its own number only: a larger set extends
    a smaller one, and the test set does not depend on `num_landmarks`. The pixels are
    the same in every run; other versions of Pillow may round a few of them otherwise.

    Args:
        num_landmarks: landmarks of the training set.
        views_per_landmark: images of each landmark, in both sets.
        image_size: side of the images in pixels, at least 16.
        seed: seed of all attributes and views.
        num_test_landmarks: landmarks of the test set, none of which is in the other.

    Returns:
        The pair (training set, test set), sorted by label.

    Raises:
        ValueError: an argument is no integer, or too small.

    Example:
    >>> from keras_aploss import synthetic_landmarks
    >>> train, test = synthetic_landmarks(3, 4, num_test_landmarks=2)
    >>> train.images.shape, test.labels.tolist()
    ((12, 64, 64, 3), [3, 3, 3, 3, 4, 4, 4, 4])
    """
    counts = {
        "num_landmarks": (num_landmarks, 1),
        "views_per_landmark": (views_per_landmark, 1),
        "image_size": (image_size, 16),
        "seed": (seed, 0),
        "num_test_landmarks": (num_test_landmarks, 1),
    }
    for name, (value, least) in counts.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(
                f"Expected an integer of at least {least}. Received: {name}={value!r}."
            )
    names = [f"landmark {i}" for i in range(num_landmarks + num_test_landmarks)]

    def draw(first_label, first_landmark, count):
        landmarks = range(first_landmark, first_landmark + count)
        views = [
            landmark_views(seed, number, views_per_landmark, image_size)
            for number in landmarks
        ]
        labels = np.repeat(np.arange(count, dtype="int64"), views_per_landmark)
        return ImageSet(np.concatenate(views), labels + first_label, names)

    test = draw(num_landmarks, _FIRST_TEST_LANDMARK, num_test_landmarks)
    return draw(0, 0, num_landmarks), test
