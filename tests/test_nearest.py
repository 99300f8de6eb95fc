"""The nearest images, block by block, against a full stable sort."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from keras_aploss.evaluation import nearest, nearest_in_blocks


def blocks(database, size):
    return [(i, database[i : i + size]) for i in range(0, len(database), size)]


# Of small whole numbers products are exact, and ties plenty.
STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]], np.float32)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(1, 45),
)
def test_ties_go_to_the_lower_index_for_any_block_size(images, queries, k, block_size):
    database, queries = STEPS[images], STEPS[queries]
    k = min(k, len(database))
    actual = nearest_in_blocks(queries, blocks(database, block_size), k)
    order = np.argsort(-(queries @ database.T), axis=1, kind="stable")
    np.testing.assert_array_equal(actual, order[:, :k])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=40),
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(0, 39),
)
def test_the_images_themselves_are_left_out(images, k, block_size, first):
    database = STEPS[images]
    k, first = min(k, len(database) - 1), min(first, len(database) - 1)
    queries = database[first : first + 7]
    actual = nearest_in_blocks(queries, blocks(database, block_size), k, first=first)
    similarity = queries @ database.T
    own = np.arange(len(queries))
    similarity[own, own + first] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")
    np.testing.assert_array_equal(actual, order[:, :k])


@pytest.mark.parametrize("k", [1, 10, 60, 700])
@pytest.mark.parametrize("block_size", [3000, 2989, 999, 640, 128])
def test_groups_chunks_and_ties_of_large_blocks(monkeypatch, k, block_size):
    """Groups of up to 64 images, whose last is not full, and few queries at a time."""
    monkeypatch.setattr(nearest, "_CHUNK_VALUES", 5 * block_size)
    rng = np.random.default_rng(k)
    # Quarters: all products are exact, and many are equal.
    database = rng.integers(-2, 3, (2990, 4)).astype(np.float32) / 4
    database[700:900] = database[0]
    queries = database[690:713]
    similarity = queries @ database.T
    for first in (None, 690):
        if first is not None:
            similarity[np.arange(23), np.arange(690, 713)] = -np.inf
        actual = nearest_in_blocks(
            queries, blocks(database, block_size), k, first=first
        )
        order = np.argsort(-similarity, axis=1, kind="stable")
        np.testing.assert_array_equal(actual, order[:, :k])
