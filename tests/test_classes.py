"""The numbers that stand for classes, and the positives of each image."""

import keras
import numpy as np
from gradients import MANY
from hypothesis import given, settings, strategies as st

from keras_aploss.losses.classes import Classmates, class_ids


@settings(deadline=None, max_examples=MANY)
@given(st.lists(st.integers(-3, 5), min_size=1, max_size=9))
def test_class_ids_number_the_classes(labels):
    labels = np.array(labels)
    ids = keras.ops.convert_to_numpy(class_ids(keras.ops.convert_to_tensor(labels)))
    np.testing.assert_array_equal(ids < 0, labels < 0)
    classes = labels >= 0
    same = labels[classes][:, None] == labels[classes]
    np.testing.assert_array_equal(ids[classes][:, None] == ids[classes], same)
    assert ids.max() < len(labels)


@settings(deadline=None, max_examples=MANY)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=9), st.integers(0, 8))
def test_classmates_lead_to_each_positive_once(labels, first):
    labels, first = np.array(labels), min(first, len(labels) - 1)
    ids = class_ids(keras.ops.convert_to_tensor(labels))
    classmates = Classmates.of(ids).of_images(first, len(labels) - first)
    behind = [
        keras.ops.convert_to_numpy(classmates.kth(k)) for k in range(1, len(labels))
    ]
    for place, image in enumerate(range(first, len(labels))):
        same = set(np.flatnonzero(np.maximum(labels, -1) == labels[image])) - {image}
        assert int(classmates.size[place]) == len(same) + 1
        assert {int(k[place]) for k in behind[: len(same)]} == same
