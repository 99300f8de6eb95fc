"""Composition, order and purity of class-balanced batches."""

import logging
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_aploss import ClassBalancedSampler


def numbered_images(count):
    """Images whose every pixel is their number."""
    return np.arange(count, dtype="int32")[:, None, None, None] * np.ones(
        (1, 2, 2, 3), "int32"
    )


def sampler_of(sizes, **arguments):
    labels = np.repeat(np.arange(len(sizes)) * 10, sizes)
    settings = {"classes_per_batch": 2, "images_per_class": 3, **arguments}
    return ClassBalancedSampler(numbered_images(len(labels)), labels, **settings)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    images_per_class=st.integers(2, 4),
    steps_per_epoch=st.integers(1, 8),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_composition_and_order(sizes, images_per_class, steps_per_epoch, seed, data):
    classes_per_batch = data.draw(st.integers(1, len(sizes)))
    sampler = sampler_of(
        sizes,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        steps_per_epoch=steps_per_epoch,
        seed=seed,
    )
    for epoch in range(2):
        visits = np.zeros(len(sizes), int)
        for step in range(len(sampler)):
            indices = sampler.indices(epoch, step)
            labels = sampler.labels[indices]
            classes, counts = np.unique(labels, return_counts=True)
            assert len(classes) == classes_per_batch
            assert set(counts) == {images_per_class}
            for label in classes:
                _, copies = np.unique(indices[labels == label], return_counts=True)
                size = sizes[label // 10]
                if size >= images_per_class:
                    assert set(copies) == {1}
                else:
                    assert len(copies) == size
                    assert copies.max() - copies.min() <= 1
            visits[classes // 10] += 1
            # Within a batch two rounds may meet, never more.
            assert visits.max() - visits.min() <= (2 if visits.min() else 1)
        assert visits.max() - visits.min() <= 1


def test_every_class_is_visited_before_any_is_repeated():
    sampler = sampler_of([4] * 10, classes_per_batch=3, steps_per_epoch=7)
    drawn = [
        label
        for step in range(7)
        for label in sampler.labels[sampler.indices(0, step)][
            :: sampler.images_per_class
        ]
    ]
    assert len(set(drawn[:10])) == 10
    assert len(set(drawn[10:20])) == 10


def test_all_images_of_a_class_are_drawn_equally_often():
    sampler = sampler_of([6, 6], steps_per_epoch=2)
    for epoch in range(3):
        drawn = np.concatenate([sampler.indices(epoch, step) for step in range(2)])
        assert sorted(drawn) == list(range(12))


def test_images_left_over_in_one_shuffle_come_in_another():
    sampler = sampler_of([7, 7], steps_per_epoch=2)
    drawn = [sampler.indices(epoch, step) for epoch in range(60) for step in range(2)]
    counts = np.bincount(np.concatenate(drawn), minlength=14)
    assert counts.min() > 0.7 * counts.mean()


def add_noise(image, rng):
    return image + rng.integers(0, 1000, image.shape)


@pytest.mark.parametrize(
    "parallel",
    [
        {"workers": 1},
        {"workers": 3},
        pytest.param(
            {"workers": 2, "use_multiprocessing": True}, marks=pytest.mark.slow
        ),
    ],
)
def test_fit_sees_the_same_batches_from_any_worker(parallel):
    arguments = {"seed": 3, "augment": add_noise, "steps_per_epoch": 3}
    expected = sampler_of([5] * 4, **arguments)
    sampler = sampler_of([5] * 4, **arguments, **parallel)
    seen = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs):
            seen.append(np.array(inputs))
            return inputs

    model = keras.Sequential([keras.Input((2, 2, 3)), Recorder()])
    seen.clear()
    model.compile(loss=lambda labels, x: keras.ops.mean(x), run_eagerly=True)
    model.fit(sampler, epochs=2, shuffle=False, verbose=0)
    batches = [
        expected.batch(epoch, step)[0] for epoch in range(2) for step in range(3)
    ]
    assert len(seen) == len(batches)
    for image, batch in zip(seen, batches, strict=True):
        np.testing.assert_array_equal(image, batch)


def test_resumes_at_an_epoch_and_survives_pickling():
    sampler = sampler_of([5] * 4, seed=1)
    resumed = pickle.loads(pickle.dumps(sampler_of([5] * 4, seed=1, initial_epoch=4)))
    np.testing.assert_array_equal(resumed[0][0], sampler.batch(4, 0)[0])
    assert not np.array_equal(sampler.indices(0, 0), sampler.indices(4, 0))
    assert not np.array_equal(
        sampler.indices(0, 0), sampler_of([5] * 4, seed=2).indices(0, 0)
    )


def test_labels_keep_their_integers_and_distractors_are_not_drawn():
    labels = np.array([2**40, 2**40, -1, -1, 7, 7])
    sampler = ClassBalancedSampler(
        numbered_images(6), labels, classes_per_batch=2, images_per_class=2
    )
    images, drawn = sampler[0]
    assert set(drawn) == {7, 2**40}
    assert drawn.dtype == np.int64
    np.testing.assert_array_equal(labels[images[:, 0, 0, 0]], drawn)


class PartlyDamaged:
    def __init__(self, images, damaged):
        self.images, self.damaged = images, damaged

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.damaged:
            raise OSError(f"image {index} is truncated")
        return self.images[index]


def test_an_unreadable_image_is_replaced_by_one_of_its_class_and_listed(caplog):
    labels = np.repeat([0, 1], 4)
    damaged = PartlyDamaged(numbered_images(8), {1, 6})
    sampler = ClassBalancedSampler(
        damaged, labels, classes_per_batch=2, images_per_class=4
    )
    with caplog.at_level(logging.WARNING):
        images, drawn = sampler[0]
    numbers = images[:, 0, 0, 0]
    np.testing.assert_array_equal(labels[numbers], drawn)
    assert not {1, 6} & set(numbers)
    assert sorted(sampler.unreadable) == [1, 6]
    assert "truncated" in caplog.text


def test_a_replacement_is_not_already_in_the_batch():
    damaged = PartlyDamaged(numbered_images(12), {2, 7})
    sampler = ClassBalancedSampler(
        damaged, np.repeat([0, 1], 6), classes_per_batch=2, images_per_class=3
    )
    for epoch in range(20):
        images, _ = sampler.batch(epoch, 0)
        assert len(set(images[:, 0, 0, 0])) == 6


def test_a_class_without_a_readable_image_is_named():
    damaged = PartlyDamaged(numbered_images(4), {2, 3})
    sampler = ClassBalancedSampler(
        damaged, [0, 0, 5, 5], classes_per_batch=2, images_per_class=2
    )
    with pytest.raises(ValueError, match="class 5"):
        sampler[0]


def test_small_classes_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        sampler_of([2, 3, 1])
    assert "2 of 3 classes" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 3}, "classes_per_batch"),
        ({"images_per_class": 1}, "images_per_class"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler_of([3, 3], **arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 0, 1], "one label per image"), ([0.0, 0, 1, 1], "dtype float64")],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedSampler(
            numbered_images(4), labels, classes_per_batch=1, images_per_class=2
        )


def test_images_of_unequal_sizes_are_named():
    images = [np.zeros((2, 2, 3)), np.zeros((2, 3, 3))]
    sampler = ClassBalancedSampler(
        images, [0, 0], classes_per_batch=1, images_per_class=2
    )
    with pytest.raises(ValueError, match="one size"):
        sampler[0]
