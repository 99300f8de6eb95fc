"""Query expansion and database augmentation: by hand, and against a plain loop."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from keras_aploss.embeddings import (
    augment_database,
    expand_queries,
    load_embeddings,
    unit_length,
)


def embeddings_of(count, units, seed):
    rng = np.random.default_rng(seed)
    return unit_length(rng.normal(size=(count, units)))


def expanded_by_definition(queries, database, k, alpha, leave_out=False):
    """The formula, one query and one neighbour after the other, in float64."""
    queries, database = np.float64(queries), np.float64(database)
    results = []
    for i, query in enumerate(queries):
        order = sorted(
            (j for j in range(len(database)) if not (leave_out and i == j)),
            key=lambda j, query=query: (-(query @ database[j]), j),
        )
        total = query.copy()
        for j in order[:k]:
            total += max(query @ database[j], 0) ** alpha * database[j]
        length = np.linalg.norm(total)
        results.append(total / length if length else total)
    return np.array(results)


def test_expansion_by_hand():
    # Similarities 0.8 and 0.6; with α = 2 the weights 0.64 and 0.36:
    # (1 + 0.64 * 0.8 + 0.36 * 0.6, 0.64 * 0.6 - 0.36 * 0.8) = (1.728, 0.096)
    database = np.array([[0.6, -0.8], [-1.0, 0.0], [0.8, 0.6]])
    actual = expand_queries(np.array([[1.0, 0.0]]), database, k=2, alpha=2)
    expected = np.array([1.728, 0.096])
    np.testing.assert_allclose(actual, [expected / np.linalg.norm(expected)], rtol=1e-6)


def test_augmentation_by_hand():
    # Image 0 has its copy, image 1, for its nearest; image 2 the first of both, at 0.6.
    database = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    actual = augment_database(database, k=1, alpha=1)
    expected = np.array([0.6 + 0.6, 0.8])
    np.testing.assert_allclose(actual[:2], database[:2])
    np.testing.assert_allclose(actual[2], expected / np.linalg.norm(expected), 1e-6)


def test_alpha_zero_is_the_plain_mean():
    queries, database = embeddings_of(3, 4, 0), embeddings_of(5, 4, 1)
    actual = expand_queries(queries, database, k=5, alpha=0)
    np.testing.assert_allclose(
        actual, unit_length((queries + database.sum(axis=0)) / 6), atol=1e-6
    )


def test_no_neighbour_changes_nothing():
    queries, database = embeddings_of(3, 4, 0), embeddings_of(5, 4, 1)
    np.testing.assert_allclose(
        expand_queries(queries, database, k=0), queries, atol=1e-7
    )
    np.testing.assert_allclose(augment_database(database, k=0), database, atol=1e-7)


def test_opposite_images_have_no_weight():
    queries, database = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0], [-0.6, -0.8]])
    for alpha in (0.5, 1, 3):
        actual = expand_queries(queries, database, k=2, alpha=alpha)
        np.testing.assert_array_equal(actual, queries)
    # But in the plain mean they have: here they cancel the query to zeros.
    cancelled = expand_queries(queries, database[:1], k=1, alpha=0)
    np.testing.assert_array_equal(cancelled, [[0, 0]])


def test_of_equal_similarities_the_lower_index_is_taken():
    database = np.array([[0.6, -0.8], [0.6, 0.8], [0.6, -0.8], [0.0, 1.0]])
    for block_size in (1, 2, 3, 4):
        actual = expand_queries(
            np.array([[1.0, 0.0]]), database, k=1, alpha=0, block_size=block_size
        )
        np.testing.assert_allclose(actual, unit_length([[1.6, -0.8]]), rtol=1e-6)


def test_a_query_of_zeros_and_a_database_of_zeros():
    zeros, some = np.zeros((1, 3)), embeddings_of(4, 3, 0)
    np.testing.assert_array_equal(expand_queries(zeros, some, k=2, alpha=1), zeros)
    np.testing.assert_allclose(
        expand_queries(some, zeros, k=1, alpha=1), some, atol=1e-7
    )
    augmented = augment_database(np.zeros((3, 2)), k=2, alpha=0)
    np.testing.assert_array_equal(augmented, np.zeros((3, 2)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(2, 20),
    st.integers(2, 8),
    st.integers(0, 20),
    st.sampled_from([0, 0.5, 1, 3]),
    st.integers(1, 25),
    st.integers(0, 100),
)
def test_blocks_of_any_size_follow_the_definition(q, n, d, k, alpha, block_size, seed):
    queries, database = embeddings_of(q, d, seed), embeddings_of(n, d, seed + 1)
    k = min(k, n)
    actual = expand_queries(queries, database, k=k, alpha=alpha, block_size=block_size)
    expected = expanded_by_definition(queries, database, k, alpha)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    assert actual.dtype == np.float32
    k = min(k, n - 1)
    actual = augment_database(database, k=k, alpha=alpha, block_size=block_size)
    expected = expanded_by_definition(database, database, k, alpha, leave_out=True)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(9)), st.integers(1, 8), st.integers(1, 9))
def test_the_order_of_the_database_moves_its_rows_only(order, k, block_size):
    database = embeddings_of(9, 4, 3)
    options = {"k": k, "alpha": 2, "block_size": block_size}
    augmented = augment_database(database, **options)
    np.testing.assert_allclose(
        augment_database(database[order], **options), augmented[order], atol=1e-6
    )
    queries = embeddings_of(2, 4, 4)
    np.testing.assert_allclose(
        expand_queries(queries, database[order], **options),
        expand_queries(queries, database, **options),
        atol=1e-6,
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 4))
def test_copies_count_as_often_as_they_occur(copies, k, units):
    database = np.repeat(embeddings_of(7, units, 5), copies, axis=0)
    assume(k < len(database))
    actual = augment_database(database, k=k, alpha=1, block_size=5)
    expected = expanded_by_definition(database, database, k, 1, leave_out=True)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_many_blocks_against_a_full_sort():
    queries, database = embeddings_of(50, 16, 0), embeddings_of(3000, 16, 1)
    actual = expand_queries(queries, database, k=40, alpha=3, block_size=128)
    similarity = queries @ database.T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :40]
    weights = np.take_along_axis(similarity, order, axis=1) ** 3
    total = queries + np.einsum("qk,qkd->qd", weights, database[order])
    np.testing.assert_allclose(actual, unit_length(total), atol=1e-5)


def test_files_give_what_arrays_give(tmp_path):
    database = embeddings_of(100, 8, 0)
    np.save(tmp_path / "e.npy", database)
    mapped = load_embeddings(tmp_path / "e.npy")
    expected = augment_database(database, k=3, block_size=9)
    for out in (tmp_path / "augmented.npy", tmp_path / "e.npy"):
        actual = augment_database(mapped, k=3, block_size=9, out=out)
        assert isinstance(actual, np.memmap)
        np.testing.assert_array_equal(actual, expected)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_computed_in_float32(dtype):
    queries, database = embeddings_of(3, 8, 0), embeddings_of(20, 8, 1)
    actual = expand_queries(queries.astype(dtype), database.astype(dtype), k=3)
    expected = expand_queries(queries, database, k=3)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_verbose_shows_progress(capsys):
    augment_database(embeddings_of(4, 2, 0), k=1, verbose=1)
    assert "4/4" in capsys.readouterr().out
    augment_database(embeddings_of(4, 2, 0), k=1)
    assert not capsys.readouterr().out


ONE = np.array([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 2}, "`k` from 0 to 1"),
        ({"k": -1}, "`k` from 0 to 1"),
        ({"alpha": -1}, "alpha=-1"),
        ({"alpha": np.nan}, "alpha=nan"),
        ({"block_size": 0}, "block_size=0"),
        ({"database": np.zeros((0, 2))}, r"database\.shape=\(0, 2\)"),
        ({"queries": np.ones(2)}, r"queries\.shape=\(2,\)"),
        ({"queries": np.ones((1, 2), int)}, "int64"),
        ({"database": np.array([[1.0, 0.0, 0.0]])}, "one number of units"),
        ({"database": 2 * ONE}, "`database` with 1 of 1 .* index 0 of length 2"),
        (
            {"queries": np.array([[np.nan, 0]])},
            "`queries` with 1 of 1 rows holding NaN",
        ),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    arguments = {"queries": ONE, "database": ONE, "k": 1, **arguments}
    with pytest.raises(ValueError, match=message):
        expand_queries(arguments.pop("queries"), arguments.pop("database"), **arguments)


def test_an_image_is_no_neighbour_of_itself():
    with pytest.raises(ValueError, match="`k` from 0 to 1"):
        augment_database(np.eye(2), k=2)


def test_a_bad_row_late_in_the_database_is_found():
    database = embeddings_of(30, 4, 0)
    database[27] *= 3
    with pytest.raises(ValueError, match="index 27 of length 3"):
        augment_database(database, k=1, block_size=8)


@pytest.mark.slow
def test_the_benchmark_compares_what_is_equal(tmp_path):
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, root / "benchmarks" / "bench_embeddings.py"]
    command += ["--rows", "9000", "--queries", "50", "--augment-rows", "5000"]
    command += ["--units", "32", "--repeats", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    differences = re.findall("difference of the two: (.*)", done.stdout)
    assert len(differences) == 2
    assert max(map(float, differences)) < 1e-6
    assert not list(tmp_path.iterdir())
