"""Composition, order and purity of class-balanced batches."""

import itertools
import logging
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from keras_aploss import ClassBalancedSampler, MultistageTrainer


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


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 5), data=st.data())
@pytest.mark.parametrize("workers", [1, 3])
def test_references_stand_for_the_images_of_the_plain_sampler(workers, seed, data):
    arguments = {"seed": seed, "augment": add_noise, "steps_per_epoch": 3}
    epoch, step = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))
    images, labels = sampler_of([5, 4, 2, 6], **arguments).batch(epoch, step)
    sampler = sampler_of([5, 4, 2, 6], **arguments, workers=workers, references=True)
    references, same_labels = sampler.batch(epoch, step)
    assert references.shape == (6, 4)
    assert references.dtype == np.int32
    np.testing.assert_array_equal(same_labels, labels)
    some = data.draw(st.permutations(range(6)))[: data.draw(st.integers(1, 6))]
    for _ in range(2):
        np.testing.assert_array_equal(sampler.load(references[some]), images[some])


@pytest.mark.parametrize("references", [False, True])
def test_the_shares_of_all_processes_are_the_whole_batch(references):
    arguments = {"seed": 4, "augment": add_noise, "references": references}
    whole, labels = sampler_of([5] * 4, **arguments).batch(2, 1)
    for count in (1, 2, 3, 6):
        shares = [
            sampler_of([5] * 4, **arguments, share=(i, count)) for i in range(count)
        ]
        parts, part_labels = zip(*[share.batch(2, 1) for share in shares], strict=True)
        assert {len(part) for part in parts} == {6 // count}
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        np.testing.assert_array_equal(np.concatenate(part_labels), labels)
        assert {len(share) for share in shares} == {len(shares[0])} == {4}


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 4), (0, 0), (0, 12)])
def test_a_wrong_share_is_refused(share):
    with pytest.raises(ValueError, match=r"Expected `share`.*batches of 6 images"):
        sampler_of([5] * 4, share=share)


def multistage(damaged):
    """A sampler of references, and a trainer that is fed by it in three chunks."""
    sampler = ClassBalancedSampler(
        damaged,
        np.repeat([0, 1, 2], len(damaged) // 3),
        classes_per_batch=3,
        images_per_class=3,
        steps_per_epoch=2,
        augment=add_noise,
        references=True,
    )
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    loads = []

    def load(references):
        loads.append((references, sampler.load(references)))
        return loads[-1][1]

    trainer = MultistageTrainer(encoder, 3, load=load, image_shape=(2, 2, 3))
    trainer.compile(keras.optimizers.SGD(1e-6), lambda _, x: keras.ops.mean(x))
    return sampler, trainer, loads


def test_both_passes_see_the_same_replacement_of_an_unreadable_image(caplog):
    damaged = PartlyDamaged(numbered_images(12), set())
    sampler, trainer, loads = multistage(damaged)
    references, labels = sampler.batch(0, 0)
    damaged.damaged = {int(references[4, 3])}
    trainer.train_on_batch(references, labels)

    seen = {}
    for part, images in loads:
        for reference, image in zip(part, images, strict=True):
            seen.setdefault(tuple(reference), []).append(image)
    assert len(seen) == 9
    for images in seen.values():  # the third reading may be ahead of a step
        assert len(images) >= 2
        for image in images[1:]:
            np.testing.assert_array_equal(image, images[0])
    # What stands for it is of its class, the only one that is not in the batch.
    begin = references[4, 3] // 4 * 4
    others = set(range(begin, begin + 4)) - set(references[:, 3])
    epoch, step, position, _ = references[4]
    rng = np.random.default_rng([0, 2, epoch, step, position])
    expected = add_noise(damaged.images[others.pop()], rng)
    np.testing.assert_array_equal(seen[tuple(references[4])][0], expected)
    assert caplog.text.count("left out") == 1
    assert sampler.unreadable == [references[4, 3]]


def test_an_image_lost_between_the_passes_ends_the_step_and_no_other(caplog):
    damaged = PartlyDamaged(numbered_images(12), set())
    sampler, trainer, _ = multistage(damaged)
    references, labels = sampler.batch(0, 0)
    lost = int(references[4, 3])
    load, counter = trainer.load, itertools.count()

    def lose(references):
        if next(counter) == 3:  # of three chunks, the first of the second pass
            damaged.damaged = {lost}
        return load(references)

    trainer.load = lose
    before = trainer.get_weights()
    sampler.load(references[3:6])
    damaged.damaged = {lost}
    with pytest.raises(ValueError, match=f"read an image again.*image {lost}:"):
        sampler.load(references[3:6])
    damaged.damaged = set()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"again.*image {lost}:"):
        trainer.train_on_batch(references, labels)
    for weight, same in zip(trainer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)

    trainer.train_on_batch(*sampler.batch(0, 1))
    assert any(
        (w != b).any() for w, b in zip(trainer.get_weights(), before, strict=True)
    )
    # In another step, it is replaced from the start.
    later = references[4:5] + np.array([0, 5, 0, 0])
    assert sampler.load(later).shape == (1, 2, 2, 3)
    assert sampler.unreadable == [lost]
    assert caplog.text.count("left out") == 1


def test_the_next_step_forgets_what_stood_for_an_image():
    damaged = PartlyDamaged(numbered_images(8), {1})
    sampler = ClassBalancedSampler(
        damaged, np.repeat([0, 1], 4), classes_per_batch=2, images_per_class=2
    )
    first, second, *later = np.array([[[0, step, 0, 1]] for step in range(5)])
    replacement = sampler.load(first)[0, 0, 0, 0]
    assert replacement in (0, 2, 3)
    damaged.damaged = set()
    assert sampler.load(first)[0, 0, 0, 0] == replacement  # in the same step it stays
    assert sampler.load(second)[0, 0, 0, 0] == 1
    # A thread may be late by a step, not by more.
    assert sampler.load(first)[0, 0, 0, 0] == replacement
    for references in later:
        sampler.load(references)
    assert sampler.load(first)[0, 0, 0, 0] == 1
