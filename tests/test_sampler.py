"""Batches of images: the same from any worker, in any order, on any part of them."""

import pickle

import keras
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

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


def add_noise(image, rng):
    return image + rng.integers(0, 1000, image.shape)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only there a layer sees values"
)
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


def test_labels_keep_their_integers_and_distractors_are_not_drawn():
    large = 2**40 if keras.backend.backend() == "tensorflow" else 2**30
    labels = np.array([large, large, -1, -1, 7, 7])
    sampler = ClassBalancedSampler(
        numbered_images(6), labels, classes_per_batch=2, images_per_class=2
    )
    images, drawn = sampler[0]
    assert set(drawn) == {7, large}
    assert drawn.dtype == np.int64
    np.testing.assert_array_equal(labels[images[:, 0, 0, 0]], drawn)


def test_a_label_per_image_is_expected():
    with pytest.raises(ValueError, match=r"one label per image.*\(3,\) for 4 images"):
        ClassBalancedSampler(
            numbered_images(4), [0, 0, 1], classes_per_batch=1, images_per_class=2
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
def test_the_shards_of_all_processes_are_the_whole_batch(references):
    arguments = {"seed": 4, "augment": add_noise, "references": references}
    whole, labels = sampler_of([5] * 4, **arguments).batch(2, 1)
    for count in (1, 2, 3, 6):
        shards = [
            sampler_of([5] * 4, **arguments, shard=(i, count)) for i in range(count)
        ]
        parts, part_labels = zip(*[shard.batch(2, 1) for shard in shards], strict=True)
        assert {len(part) for part in parts} == {6 // count}
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        np.testing.assert_array_equal(np.concatenate(part_labels), labels)
        assert {len(shard) for shard in shards} == {len(shards[0])} == {4}


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 4), (0, 0), (0, 12)])
def test_a_wrong_shard_is_refused(shard):
    with pytest.raises(ValueError, match=r"Expected `shard`.*batches of 6 images"):
        sampler_of([5] * 4, shard=shard)


def test_a_loop_over_a_sampler_ends():
    """Also by `IndexError`, where a wrapper has no iterator of its own."""
    sampler = sampler_of([5] * 4)
    for batches in (list(sampler), list(iter(_WithoutIterator(sampler)))):
        assert len(batches) == len(sampler) == 4
        for step, (images, labels) in enumerate(batches):
            np.testing.assert_array_equal(images, sampler.batch(0, step)[0])
            np.testing.assert_array_equal(labels, sampler.batch(0, step)[1])
    for step in (4, -1):
        with pytest.raises(IndexError, match=f"from 0 to 3. Received: step={step}"):
            sampler[step]


class _WithoutIterator:
    def __init__(self, sampler):
        self.sampler = sampler

    def __getitem__(self, step):
        return self.sampler[step]


def test_labels_that_keras_would_cut_off_are_refused():
    images, labels = numbered_images(4), np.array([1, 1, 1 + 2**40, 1 + 2**40])
    sizes = {"classes_per_batch": 2, "images_per_class": 2}
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match=r"that int32 holds.*np\.unique"):
            ClassBalancedSampler(images, labels, **sizes)
    else:
        sampler = ClassBalancedSampler(images, labels, **sizes)
        assert sorted(sampler[0][1]) == labels.tolist()
    with pytest.raises(ValueError, match=r"below 2\*\*63.*no int64 holds"):
        ClassBalancedSampler(images, labels.astype("uint64") + 2**63, **sizes)
