"""The order of the steps between extraction and ranking."""

import numpy as np
import pytest

from keras_aploss.embeddings import (
    augment_database,
    expand_queries,
    load_embeddings,
    postprocess_embeddings,
    unit_length,
    whiten_embeddings,
)

RNG = np.random.default_rng(0)
QUERIES = unit_length(RNG.normal(size=(3, 5)))
DATABASE = unit_length(RNG.normal(size=(12, 5)))
WHITENING = RNG.normal(size=5) / 9, RNG.normal(size=(5, 4))


def test_the_order_is_the_published_one():
    queries, database = postprocess_embeddings(
        QUERIES,
        DATABASE,
        whitening=WHITENING,
        database_augmentation=(3, 2.0),
        query_expansion=(2, 1.0),
    )
    q, d = whiten_embeddings(QUERIES, WHITENING), whiten_embeddings(DATABASE, WHITENING)
    d = augment_database(d, k=3, alpha=2.0)
    q = expand_queries(q, d, k=2, alpha=1.0)
    np.testing.assert_array_equal(queries, q)
    np.testing.assert_array_equal(database, d)
    # In another order the result is another one.
    other = expand_queries(
        whiten_embeddings(QUERIES, WHITENING),
        whiten_embeddings(DATABASE, WHITENING),
        k=2,
        alpha=1.0,
    )
    assert np.abs(other - queries).max() > 0.01


def test_by_hand():
    # The database moves to the diagonal, where the query then finds its neighbour:
    # (1, 0) + (1, 1) / sqrt(2), at 22.5 degrees.
    queries, database = postprocess_embeddings(
        np.array([[2.0, 0.0]]),
        np.array([[4.0, 3.0], [0.3, 0.4]]),
        whitening=(np.zeros(2), np.eye(2)),
        database_augmentation=(1, 0.0),
        query_expansion=(1, 0.0),
    )
    np.testing.assert_allclose(database, np.full((2, 2), 0.5**0.5), rtol=1e-6)
    angle = np.pi / 8
    np.testing.assert_allclose(queries, [[np.cos(angle), np.sin(angle)]], rtol=1e-6)


def test_without_steps_nothing_changes():
    queries, database = postprocess_embeddings(QUERIES, DATABASE)
    assert queries is QUERIES
    assert database is DATABASE


@pytest.mark.parametrize(
    "steps",
    [
        {"whitening": WHITENING},
        {"database_augmentation": (2, 1.0)},
        {"whitening": WHITENING, "database_augmentation": (2, 1.0)},
    ],
)
def test_the_database_may_go_into_a_file(tmp_path, steps):
    np.save(tmp_path / "database.npy", DATABASE)
    mapped = load_embeddings(tmp_path / "database.npy")
    out = tmp_path / "final.npy"
    expected = postprocess_embeddings(QUERIES, DATABASE, **steps)
    actual = postprocess_embeddings(QUERIES, mapped, out=out, **steps)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.load(out), expected[1])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["database.npy", "final.npy"]
