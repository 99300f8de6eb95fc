"""Streamed databases: the whole ranking, exactly, without the whole in memory."""

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from exact_rows import EXACT_ROWS, WHOLE_ROWS, draw_exact_rows
from hypothesis import strategies as st

from keras_aploss.evaluation import (
    distractors,
    evaluate_protocols,
    evaluate_query_database,
)


def unit_rows(rng, num, units):
    x = rng.normal(size=(num, units)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def assert_same_result(actual, expected):
    np.testing.assert_array_equal(actual.average_precision, expected.average_precision)
    assert actual.metrics == expected.metrics


def mapped(folder, name, values):
    path = folder / f"{name}.npy"
    np.save(path, values)
    return np.load(path, mmap_mode="r")


@st.composite
def rankings(draw):
    """Exact products, many ties."""

    def rows(least, most):
        size, elements = st.integers(least, most), st.integers(0, len(EXACT_ROWS) - 1)
        return EXACT_ROWS[draw(arrays.arrays(np.int64, size, elements=elements))]

    queries, database = rows(1, 4), rows(1, 12)
    more = [rows(1, 9) for _ in range(draw(st.integers(1, 3)))]
    kind = draw(
        arrays.arrays(
            np.int8, (len(queries), len(database)), elements=st.integers(0, 2)
        )
    )
    kind[0, 0] = 1
    relevant = [np.flatnonzero(row == 1) for row in kind]
    junk = [np.flatnonzero(row == 2) for row in kind]
    return queries, database, relevant, junk, more


@hypothesis.given(
    rankings(), st.integers(1, 40), st.sampled_from(["step", "trapezoid"])
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_distractors_equal_the_concatenated_database(case, values, interpolation):
    queries, database, relevant, junk, more = case
    options = {"ks": (1, 2, 30), "interpolation": interpolation}
    whole = np.concatenate([database, *more])
    expected = evaluate_query_database(queries, whole, relevant, junk, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distractors, "_BLOCK_VALUES", values)
        actual = evaluate_query_database(
            queries, database, relevant, junk, distractors=more, **options
        )
    assert_same_result(actual, expected)


def test_copies_of_a_positive_are_tied_with_it_whatever_products_round(monkeypatch):
    """Each matrix product adds an error of its own, as other machines may."""
    rng = np.random.default_rng(0)
    queries, database = unit_rows(rng, 5, 64), unit_rows(rng, 40, 64)
    relevant = [[1, 7], [2], [], [7, 9, 11], [30]]
    more = unit_rows(rng, 200, 64)
    more[::3] = database[rng.integers(0, 40, 67)]
    whole = np.concatenate([database, more])
    expected = evaluate_query_database(queries, whole, relevant)
    errors = iter(rng.uniform(-1e-5, 1e-5, 1000).astype(np.float32))
    matmul = np.matmul

    def rounded(a, b, out):
        matmul(a, b, out=out)
        out += next(errors)

    monkeypatch.setattr(np, "matmul", rounded)
    monkeypatch.setattr(distractors, "_BLOCK_VALUES", 64 * 9)
    actual = evaluate_query_database(queries, database, relevant, distractors=[more])
    assert actual.metrics == pytest.approx(expected.metrics, abs=1e-12)


def test_many_positives_are_counted_by_bins():
    rng = np.random.default_rng(1)
    queries, database = unit_rows(rng, 2, 8), unit_rows(rng, 300, 8)
    relevant = [np.arange(0, 300, 2), np.arange(100)]
    more = unit_rows(rng, 2000, 8)
    expected = evaluate_query_database(
        queries, np.concatenate([database, more]), relevant
    )
    actual = evaluate_query_database(queries, database, relevant, distractors=[more])
    assert_same_result(actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8"])
def test_mapped_arrays_are_not_copied(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(distractors, "_BLOCK_VALUES", 100)
    rng = np.random.default_rng(2)
    rows = WHOLE_ROWS if dtype == "int8" else EXACT_ROWS
    queries, database, more = (draw_exact_rows(rng, n, rows) for n in (6, 90, 70))
    relevant = [row[:5] for row in rng.permuted(np.tile(np.arange(40), (6, 1)), axis=1)]
    junk = [np.setdiff1d([1, 2, 3, 41], row) for row in relevant]
    expected = evaluate_query_database(
        queries, np.concatenate([database, more]), relevant, junk
    )
    on_disk = mapped(tmp_path, "database", database.astype(dtype))
    others = mapped(tmp_path, "more", more.astype(dtype))
    sizes = []
    check_embeddings = distractors.check_embeddings

    def spy(block, *args):
        sizes.append(block.size)
        return check_embeddings(block, *args)

    monkeypatch.setattr(distractors, "check_embeddings", spy)
    # A slice of a mapped array is one as well, without a file position of its own.
    for parts in ([others], [others[:33], others[33:]], [others[::-1]]):
        actual = evaluate_query_database(
            queries, on_disk, relevant, junk, distractors=parts
        )
        assert_same_result(actual, expected)
    listed = np.unique(np.concatenate(relevant + junk))
    assert max(sizes) <= 100
    assert sum(sizes) == 3 * 4 * (90 - len(listed) + 70)


def test_a_mapped_database_of_which_most_is_listed(tmp_path):
    rng = np.random.default_rng(3)
    queries, database = unit_rows(rng, 3, 4), unit_rows(rng, 20, 4)
    relevant = [np.arange(15)] * 3
    expected = evaluate_query_database(queries, database, relevant)
    actual = evaluate_query_database(
        queries, mapped(tmp_path, "database", database), relevant
    )
    assert_same_result(actual, expected)
    with pytest.raises(ValueError, match="at least one query"):
        evaluate_query_database(
            queries, mapped(tmp_path, "database", database), [[], [], []]
        )


def test_protocols_share_one_pass(monkeypatch):
    rng = np.random.default_rng(4)
    queries, database = unit_rows(rng, 4, 6), unit_rows(rng, 30, 6)
    more = unit_rows(rng, 50, 6)
    easy, hard = [[0], [1, 2], [], [3]], [[5], [], [6, 7], [8]]
    protocols = {"easy": (easy, hard), "hard": (hard, easy), "all": (easy, None)}
    products = []
    matmul = np.matmul

    def spy(a, b, out):
        products.append(out.shape)
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    results = evaluate_protocols(queries, database, protocols, distractors=[more])
    assert products == [(4, 30), (4, 50)]
    whole = np.concatenate([database, more])
    for name, (relevant, junk) in protocols.items():
        expected = evaluate_query_database(queries, whole, relevant, junk)
        assert_same_result(results[name], expected)


def test_verbose_shows_progress_over_blocks(monkeypatch, capsys):
    monkeypatch.setattr(distractors, "_BLOCK_VALUES", 4)
    evaluate_query_database(
        np.eye(2), np.eye(2), [[0], [1]], distractors=[np.eye(2)[[0, 1] * 3]], verbose=1
    )
    assert "3/3" in capsys.readouterr().out


BAD = np.full((9, 4), 0.5, np.float32)
BAD[7, 2] = np.nan
LONG = np.full((9, 4), 0.5, np.float32)
LONG[[4, 8]] *= 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"distractors": [np.ones((3, 4)), np.ones((3, 5))]},
            r"distractors\[1\].shape",
        ),
        ({"distractors": [np.ones(4)]}, r"distractors\[0\].shape=\(4,\)"),
        ({"distractors": [np.empty((0, 4))]}, "non-empty"),
        ({"distractors": [np.full((2, 4), "a")]}, "dtype=<U1"),
        ({"distractors": [BAD]}, r"`distractors\[0\]`.*first at index 7"),
        ({"distractors": [LONG]}, r"`distractors\[0\]`.* first at index 4 of length 3"),
        ({"relevant": [[], []]}, "at least one query"),
        ({"database": np.empty((0, 4))}, "`database` to be a non-empty"),
    ],
)
def test_errors(arguments, message, monkeypatch):
    monkeypatch.setattr(distractors, "_BLOCK_VALUES", 12)
    valid = {
        "queries": np.eye(4)[:2],
        "database": np.eye(4),
        "relevant": [[0], [1]],
        "distractors": [np.full((3, 4), 0.5)],
    }
    with pytest.raises(ValueError, match=message):
        evaluate_query_database(**{**valid, **arguments})


def test_a_protocol_without_positives_is_named_before_the_pass():
    protocols = {"easy": ([[0]], None), "hard": ([[]], None)}
    with pytest.raises(ValueError, match="at least one query"):
        evaluate_protocols(np.eye(1), np.eye(1), protocols, distractors=[np.eye(1)])
    protocols["hard"] = ([[3]], None)
    with pytest.raises(ValueError, match=r"protocols\['hard'\]\[0\]\[0\]"):
        evaluate_protocols(np.eye(1), np.eye(1), protocols)


def test_a_file_that_shrinks_is_an_error(tmp_path):
    more = mapped(tmp_path, "more", np.full((50, 4), 0.5, np.float32))
    with open(tmp_path / "more.npy", "r+b") as file:
        file.truncate(128 + 16 * 30)
    for part, row in ((more, 50), (more[10:45], 35)):
        with pytest.raises(ValueError, match=f"ends before row {row}"):
            evaluate_query_database(np.eye(4), np.eye(4), [[0]] * 4, distractors=[part])
    # What is read lies before the end.
    evaluate_query_database(np.eye(4), np.eye(4), [[0]] * 4, distractors=[more[5:30]])
