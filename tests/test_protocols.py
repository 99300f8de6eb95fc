import pathlib

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from exact_rows import EXACT_ROWS, draw_exact_rows
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from keras_aploss.evaluation import (
    evaluate_leave_one_out,
    evaluate_query_database,
    evaluate_similarity,
    relevant_by_label,
    top_k,
)

GOLDEN = pathlib.Path(__file__).parent / "golden"


def unit_rows(rng, num, units):
    x = rng.normal(size=(num, units)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def assert_same_result(actual, expected):
    np.testing.assert_array_equal(actual.average_precision, expected.average_precision)
    assert actual.metrics == pytest.approx(expected.metrics, rel=1e-12)


@pytest.mark.parametrize("protocol", ["easy", "medium", "hard"])
@pytest.mark.parametrize("block_size", [None, 4])
def test_revisited_oxford_and_paris(protocol, block_size):
    golden = np.load(GOLDEN / "revisited.npz")
    easy, hard, junk = (
        np.split(golden[name], golden[f"{name}_splits"][1:-1])
        for name in ("easy", "hard", "junk")
    )

    def both(a, b):
        return [np.concatenate(pair) for pair in zip(a, b, strict=True)]

    relevant, left_out = {
        "easy": (easy, both(junk, hard)),
        "medium": (both(easy, hard), junk),
        "hard": (hard, both(junk, easy)),
    }[protocol]
    result = evaluate_query_database(
        golden["queries"],
        golden["database"],
        relevant,
        left_out,
        ks=golden["kappas"],
        interpolation="trapezoid",
        block_size=block_size,
    )
    np.testing.assert_allclose(
        result.average_precision, golden[f"{protocol}_ap"], rtol=0, atol=1e-6
    )
    assert result.metrics["map"] == pytest.approx(golden[f"{protocol}_map"], abs=1e-6)
    mp = [result.metrics[f"mp_at_{k}"] for k in golden["kappas"]]
    np.testing.assert_allclose(mp, golden[f"{protocol}_mp"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_leave_one_out_equals_scikit_learn(tied):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, 90)
    embeddings = rng.normal(size=(90, 8)) + rng.normal(size=(12, 8))[labels]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    if tied:
        embeddings = draw_exact_rows(rng, 90)
    result = evaluate_leave_one_out(embeddings, labels)
    similarity = embeddings.astype(np.float32) @ embeddings.astype(np.float32).T
    for i, value in enumerate(result.average_precision):
        others = np.arange(90) != i
        relevance = (labels == labels[i])[others]
        expected = average_precision_score(relevance, similarity[i, others])
        assert value == pytest.approx(expected, abs=1e-9)
    assert result.metrics["map"] == pytest.approx(result.average_precision.mean())


@st.composite
def labelled_embeddings(draw):
    num = draw(st.integers(2, 12))
    rows = st.integers(0, len(EXACT_ROWS) - 1)
    embeddings = EXACT_ROWS[draw(arrays.arrays(np.int64, num, elements=rows))]
    # Distractors and singletons, too.
    labels = draw(arrays.arrays(np.int32, num, elements=st.integers(-2, 3)))
    return embeddings, labels


@hypothesis.given(labelled_embeddings(), st.sampled_from(["step", "trapezoid"]))
@hypothesis.settings(deadline=None, max_examples=150)
def test_leave_one_out_equals_the_matrix_form(case, interpolation):
    embeddings, labels = case
    itself = np.eye(len(labels), dtype=bool)
    relevance = (labels[:, None] == labels) & (labels >= 0) & ~itself
    if not relevance.any():
        with pytest.raises(ValueError, match="at least one query"):
            evaluate_leave_one_out(embeddings, labels)
        return
    options = {"ks": (1, 2, 20), "interpolation": interpolation}
    expected = evaluate_similarity(
        embeddings @ embeddings.T, relevance, junk=itself, **options
    )
    for block_size in (None, 1, 3, len(labels)):
        actual = evaluate_leave_one_out(
            embeddings, labels, block_size=block_size, **options
        )
        assert_same_result(actual, expected)
    order = np.random.default_rng(0).permutation(len(labels))
    permuted = evaluate_leave_one_out(embeddings[order], labels[order], **options)
    assert permuted.metrics == pytest.approx(expected.metrics, rel=1e-12)
    np.testing.assert_array_equal(
        permuted.average_precision, expected.average_precision[order]
    )


def test_query_database_equals_the_matrix_form():
    rng = np.random.default_rng(2)
    queries, database = draw_exact_rows(rng, 7), draw_exact_rows(rng, 300)
    kind = rng.integers(0, 3, (7, 300))
    kind[4] = 0  # a query without positives
    result = evaluate_query_database(
        queries,
        database,
        [np.flatnonzero(row == 1) for row in kind],
        [np.flatnonzero(row == 2).tolist() for row in kind],
        block_size=2,
    )
    expected = evaluate_similarity(queries @ database.T, kind == 1, junk=kind == 2)
    assert_same_result(result, expected)
    assert np.isnan(result.average_precision[4])
    assert result.num_queries == 6


def test_distractors_lower_precision_and_are_no_queries():
    embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.96, 0.28], [0.96, 0.28]])
    clean = evaluate_leave_one_out(embeddings[:2], [5, 5])
    assert clean.metrics["map"] == 1
    result = evaluate_leave_one_out(embeddings, [5, 5, -1, -1])
    # Both distractors, alike but not a pair, come before the positive.
    np.testing.assert_allclose(result.average_precision, [1 / 3, 1 / 3, np.nan, np.nan])


def test_collapsed_embeddings():
    embeddings = np.tile(unit_rows(np.random.default_rng(3), 1, 37), (103, 1))
    labels = np.sort(np.arange(103) % 10)
    metrics = evaluate_leave_one_out(embeddings, labels).metrics
    assert metrics["recall_at_10"] == metrics["map_at_r"] == 0
    assert metrics["map"] < 0.11


@pytest.mark.parametrize(
    ("num", "units"), [(2, 8), (34, 64), (50, 128), (97, 300), (103, 37), (500, 129)]
)
@pytest.mark.parametrize("block_size", [None, 1, 5, 17])
def test_identical_embeddings_are_tied(num, units, block_size):
    """Whatever the tiles of the matrix product, negatives come before positives."""
    rng = np.random.default_rng(num)
    collapsed = np.tile(unit_rows(rng, 1, units), (2 * num, 1))
    labels = np.arange(2 * num) % num
    result = evaluate_leave_one_out(collapsed, labels, block_size=block_size)
    np.testing.assert_array_equal(result.average_precision, 1 / (2 * num - 1))
    assert result.metrics["recall_at_1"] == 0
    # Pairs of identical embeddings among others, which must stay as they are.
    pairs = np.tile(unit_rows(rng, num, units), (2, 1))
    indices, values = top_k(pairs, pairs, 2 * num, block_size=block_size)
    similarity = np.take_along_axis(values, np.argsort(indices, axis=1), 1)
    np.testing.assert_array_equal(similarity[:, :num], similarity[:, num:])
    np.testing.assert_allclose(similarity, pairs @ pairs.T, atol=1e-6)


def test_ties_do_not_rest_on_the_matrix_product(monkeypatch):
    """Another machine may round each column in its own way."""
    matmul = np.matmul

    def by_place(a, b, out):
        matmul(a, b, out=out)
        out += np.linspace(0, 1e-6, out.shape[1], dtype=np.float32)

    monkeypatch.setattr(np, "matmul", by_place)
    # One-hot rows: equal sums of units, but not identical.
    embeddings = np.repeat(np.eye(5), 8, axis=0)
    indices, values = top_k(embeddings, embeddings, 40)
    assert all(len(np.unique(row)) == 5 for row in values)
    for query, row in enumerate(indices):
        assert row[:8].tolist() == list(range(query // 8 * 8, query // 8 * 8 + 8))


def test_relevant_by_label():
    rng = np.random.default_rng(4)
    query_labels, database_labels = rng.integers(-2, 9, 20), rng.integers(-2, 8, 50)
    groups = relevant_by_label(query_labels, database_labels)
    for label, group in zip(query_labels, groups, strict=True):
        expected = np.flatnonzero((database_labels == label) & (label >= 0))
        np.testing.assert_array_equal(group, expected)
    assert [len(group) for group in relevant_by_label([3], np.empty(0, int))] == [0]
    result = evaluate_query_database(
        unit_rows(rng, 20, 4), unit_rows(rng, 50, 4), groups
    )
    assert result.num_queries == sum(len(group) > 0 for group in groups)


@pytest.mark.parametrize("block_size", [None, 1, 3, 10])
def test_top_k_with_ties(block_size):
    rng = np.random.default_rng(5)
    queries, database = draw_exact_rows(rng, 10), draw_exact_rows(rng, 40)
    similarity = queries @ database.T
    for k in (1, 7, 40):
        indices, values = top_k(queries, database, k, block_size=block_size)
        expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(
            values, np.take_along_axis(similarity, expected, 1)
        )


def test_top_k_excludes_the_query_itself():
    embeddings = unit_rows(np.random.default_rng(6), 30, 4)
    indices, values = top_k(embeddings, embeddings, 29, exclude_self=True, block_size=7)
    similarity = embeddings @ embeddings.T
    for i, row in enumerate(indices):
        assert sorted([*row, i]) == list(range(30))
        np.testing.assert_allclose(values[i], similarity[i, row], atol=1e-6)
    assert (np.diff(values) <= 0).all()


def test_memory_is_a_block(monkeypatch):
    """No array of N x N: the similarities of a block, here 100 values, at most."""
    monkeypatch.setattr("keras_aploss.evaluation.similarity._BLOCK_VALUES", 100)
    sizes = []
    matmul = np.matmul

    def spy(a, b, out):
        sizes.append(out.shape)
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", spy)
    evaluate_leave_one_out(np.ones((30, 1)), np.repeat(np.arange(15), 2))
    assert sizes == [(3, 30)] * 10


def test_verbose_shows_progress(capsys):
    evaluate_leave_one_out(np.eye(4), [0, 0, 1, 1], block_size=2, verbose=1)
    assert "2/2" in capsys.readouterr().out
    evaluate_leave_one_out(np.eye(4), [0, 0, 1, 1], block_size=2)
    assert not capsys.readouterr().out


BAD = np.eye(4)
BAD[[2, 3], 1] = np.nan, np.inf


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embeddings": np.eye(4)[0]}, r"embeddings.shape=\(4,\)"),
        ({"embeddings": np.empty((0, 4))}, "non-empty"),
        ({"embeddings": np.eye(4, dtype=complex)}, "complex"),
        ({"embeddings": BAD}, "2 of 4 rows .* first at index 2"),
        ({"embeddings": np.eye(4) * 1e39}, "4 of 4 rows"),
        ({"embeddings": np.eye(4) * 1e30}, "4 of 4 rows of other lengths.*1e[+]30"),
        (
            {"embeddings": np.diag([1, 1.02, 0.98, 1])},
            "2 of 4 .* index 1 of length 1.02",
        ),
        ({"labels": [0, 0, 1]}, r"len\(embeddings\)=4, len\(labels\)=3"),
        ({"labels": [0.0, 0, 1, 1]}, "Number the classes"),
        ({"labels": ["a", "a", "b", "b"]}, "Number the classes"),
        ({"labels": [True, True, False, False]}, "Number the classes"),
        ({"labels": [[0, 0, 1, 1]]}, r"shape=\(1, 4\)"),
        ({"labels": np.array([2**63] * 4, np.uint64)}, "int64"),
        ({"labels": [0, 1, 2, 3]}, "at least one query"),
        ({"labels": [-1] * 4}, "at least one query"),
        ({"ks": (0,)}, "integers >= 1"),
        ({"interpolation": "linear"}, "interpolation='linear'"),
        ({"block_size": 0}, "block_size=0"),
    ],
)
def test_leave_one_out_errors(arguments, message):
    valid = {"embeddings": np.eye(4), "labels": [0, 0, 1, 1]}
    with pytest.raises(ValueError, match=message):
        evaluate_leave_one_out(**{**valid, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.eye(3)[:2]}, r"of one size.*queries.shape=\(2, 3\)"),
        ({"queries": BAD[:2] * np.nan}, "`queries` with 2 of 2"),
        ({"database": np.empty((0, 4))}, "`database` to be a non-empty"),
        ({"database": BAD}, "`database` with 2 of 4"),
        ({"queries": 2 * np.eye(4)[:2]}, "`queries` with 2 of 2 .*UnitNormalization"),
        ({"database": np.eye(4) * 3}, "`database` with 4 of 4 .*`.*unit_length`"),
        ({"relevant": [[0]]}, r"per query, 2 in all.*len\(relevant\)=1"),
        ({"relevant": [[0], [4]]}, r"`relevant\[1\]`.*below 4.*from 4 to 4"),
        ({"relevant": [[-1], [2]]}, r"`relevant\[0\]`.*from -1"),
        ({"relevant": [[1, 2, 1], [2]]}, r"`relevant\[0\]`.*more than once"),
        ({"relevant": [[0.0], [1]]}, "dtype=float64"),
        ({"relevant": np.eye(4, dtype=bool)[:2]}, "dtype=bool"),
        ({"relevant": [[], []]}, "at least one query"),
        ({"junk": [[3]]}, r"len\(junk\)=1"),
        ({"junk": [[3], [9]]}, r"`junk\[1\]`"),
        ({"junk": [[3], [0, 1]]}, "disjoint.*query=1"),
    ],
)
def test_query_database_errors(arguments, message):
    valid = {"queries": np.eye(4)[:2], "database": np.eye(4), "relevant": [[0], [1]]}
    with pytest.raises(ValueError, match=message):
        evaluate_query_database(**{**valid, **arguments})


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_errors(k):
    with pytest.raises(ValueError, match=f"from 1 to the 3 images.*k={k}"):
        top_k(np.eye(4), np.eye(4), k, exclude_self=True)
    with pytest.raises(ValueError, match="exclude_self=True"):
        top_k(np.eye(4)[:2], np.eye(4), 1, exclude_self=True)
    with pytest.raises(ValueError, match=r"`queries` with 1 of 4 .*unit_length"):
        top_k(np.diag([1, 1, 1, 2]), np.eye(4), 1)


def test_lengths_of_16_bits_and_rows_of_zeros_pass():
    rows = unit_rows(np.random.default_rng(8), 40, 6)
    rows[5] = 0
    labels = np.arange(40) // 4
    expected = evaluate_leave_one_out(rows.astype("float16"), labels)
    # bfloat16, made by hand: the first 16 bits.
    rows = (rows.view("uint32") & np.uint32(0xFFFF0000)).view("float32")
    assert np.abs(np.linalg.norm(rows, axis=1)[:5] - 1).max() > 1e-3
    actual = evaluate_leave_one_out(rows, labels)
    assert actual.metrics["map"] == pytest.approx(expected.metrics["map"], abs=0.05)
