"""Composition, order and purity of class-balanced batches of indices."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from keras_aploss.samplers import ClassBalancedIndices


def indices_of(sizes, **arguments):
    """Classes 0, 10, 20... of these numbers of images."""
    labels = np.repeat(np.arange(len(sizes)) * 10, sizes)
    return ClassBalancedIndices(
        labels, **{"classes_per_batch": 2, "images_per_class": 3, **arguments}
    )


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
    indices = indices_of(
        sizes,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        steps_per_epoch=steps_per_epoch,
        seed=seed,
    )
    for epoch in range(2):
        visits = np.zeros(len(sizes), int)
        for step in range(len(indices)):
            batch = indices.batch(epoch, step)
            labels = indices.labels[batch]
            classes, counts = np.unique(labels, return_counts=True)
            assert len(classes) == classes_per_batch
            assert set(counts) == {images_per_class}
            for label in classes:
                _, copies = np.unique(batch[labels == label], return_counts=True)
                size = sizes[label // 10]
                if size >= images_per_class:
                    assert set(copies) == {1}
                else:
                    assert len(copies) == size
                    assert copies.max() - copies.min() <= 1
            visits[classes // 10] += 1
            # Two orders of the classes may meet within a batch, never more.
            assert visits.max() - visits.min() <= (2 if visits.min() else 1)
        assert visits.max() - visits.min() <= 1


# Drawn by version 0.1: a run that began with it resumes with the same batches.
@pytest.mark.parametrize(
    ("sizes", "arguments", "epoch", "step", "batch"),
    [
        ([5, 4, 2, 6], (2, 3, 3, 3), 0, 0, [12, 11, 16, 9, 10, 9]),
        ([5, 4, 2, 6], (2, 3, 3, 3), 0, 2, [14, 13, 15, 6, 7, 5]),
        ([5, 4, 2, 6], (2, 3, 3, 3), 7, 1, [15, 11, 16, 9, 10, 9]),
        ([4] * 10, (3, 2, 7, 0), 2, 6, [4, 5, 1, 2, 17, 16]),
        (
            [1, 9, 3],
            (3, 4, None, 11),
            100,
            1,
            [8, 4, 6, 3, 0, 0, 0, 0, 11, 10, 12, 11],
        ),
    ],
)
def test_batches_are_those_of_the_first_version(sizes, arguments, epoch, step, batch):
    names = ("classes_per_batch", "images_per_class", "steps_per_epoch", "seed")
    indices = indices_of(sizes, **dict(zip(names, arguments, strict=True)))
    assert indices.batch(epoch, step).tolist() == batch


def test_unsorted_labels_and_distractors_draw_the_batches_of_the_first_version():
    labels = [5, -1, 5, 3, 3, -1, 9, 9, 9, 3]
    indices = ClassBalancedIndices(
        labels, classes_per_batch=2, images_per_class=2, seed=4
    )
    drawn = []
    for epoch in range(2):
        indices.set_epoch(epoch)
        drawn += indices
    assert drawn == [[9, 4, 2, 0], [8, 7, 4, 9], [0, 2, 8, 7], [4, 3, 8, 6]]


def test_every_class_is_visited_before_any_is_repeated():
    indices = indices_of([4] * 10, classes_per_batch=3, steps_per_epoch=7)
    drawn = [label for batch in indices for label in indices.labels[batch][::3]]
    assert len(set(drawn[:10])) == 10
    assert len(set(drawn[10:20])) == 10


def test_all_images_of_a_class_are_drawn_equally_often():
    indices = indices_of([6, 6], steps_per_epoch=2)
    for epoch in range(3):
        indices.set_epoch(epoch)
        assert sorted(np.concatenate(list(indices))) == list(range(12))


def test_images_left_over_in_one_shuffle_come_in_another():
    indices = indices_of([7, 7], steps_per_epoch=2)
    drawn = [indices.batch(epoch, step) for epoch in range(60) for step in range(2)]
    counts = np.bincount(np.concatenate(drawn), minlength=14)
    assert counts.min() > 0.7 * counts.mean()


def test_iterating_yields_lists_of_one_epoch_and_survives_pickling():
    indices = indices_of([5] * 4, seed=1)
    indices.set_epoch(4)
    batches = list(pickle.loads(pickle.dumps(indices)))
    assert batches == [indices.batch(4, step).tolist() for step in range(len(indices))]
    assert {type(number) for batch in batches for number in batch} == {int}
    assert batches[0] != indices.batch(0, 0).tolist()
    assert batches[0] != indices_of([5] * 4, seed=2).batch(4, 0).tolist()


def test_members_are_the_images_of_a_class():
    assert indices_of([2, 3, 1]).members(10).tolist() == [2, 3, 4]


def test_small_classes_are_reported(caplog):
    indices_of([2, 3, 1])
    assert "2 of 3 classes" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [{"classes_per_batch": 3}, {"images_per_class": 1}, {"steps_per_epoch": 0}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}`"):
        indices_of([3, 3], **wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0.0, 0, 1, 1], "dtype float64"), ([[0, 0]], r"shape \(1, 2\)")],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"Expected integer class labels.*{message}"):
        ClassBalancedIndices(labels, classes_per_batch=1, images_per_class=2)
