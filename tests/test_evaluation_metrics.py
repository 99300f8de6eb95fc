import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from keras_aploss.evaluation import top_of_row
from keras_aploss.evaluation.metrics import (
    average_precision,
    evaluate_similarity,
)

KS = (1, 2, 3, 5, 10)


def brute_force(similarity, relevance, junk, ks=KS):
    """The definitions, written on the ranked list of one query in plain Python."""
    kept = [i for i in range(len(similarity)) if not junk[i]]
    # False sorts before True: of equal similarities the negatives come first.
    kept.sort(key=lambda i: (-similarity[i], bool(relevance[i])))
    hits = [bool(relevance[i]) for i in kept]
    total = sum(hits)

    def precision(k):
        return sum(hits[:k]) / k

    step = 0.0
    for i in kept:
        if relevance[i]:
            reached = [j for j in kept if similarity[j] >= similarity[i]]
            step += sum(bool(relevance[j]) for j in reached) / len(reached) / total
    trapezoid = 0.0
    for rank, hit in enumerate(hits):
        if hit:
            before = precision(rank) if rank else 1.0
            trapezoid += (before + precision(rank + 1)) / 2 / total

    def map_at(k):
        at_hits = [precision(r + 1) for r, hit in enumerate(hits[:k]) if hit]
        return sum(at_hits) / min(k, total)

    metrics = {"map": step, "trapezoid": trapezoid, "map_at_r": map_at(total)}
    last = max(rank for rank, hit in enumerate(hits, 1) if hit)
    for k in ks:
        metrics[f"recall_at_{k}"] = float(any(hits[:k]))
        metrics[f"precision_at_{k}"] = precision(k)
        metrics[f"mp_at_{k}"] = precision(min(k, last))
        metrics[f"map_at_{k}"] = map_at(k)
    return metrics


@st.composite
def rankings(draw):
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    # Few distinct values, so that ties are the rule.
    similarity = draw(arrays.arrays(np.float32, shape, elements=st.integers(-3, 3)))
    kind = draw(arrays.arrays(np.int8, shape, elements=st.integers(0, 2)))
    return similarity, kind == 1, kind == 2


@hypothesis.given(rankings())
@hypothesis.settings(deadline=None, max_examples=300)
def test_equals_the_definitions(case):
    similarity, relevance, junk = case
    rows = [i for i in range(len(similarity)) if relevance[i].any()]
    if not rows:
        with pytest.raises(ValueError, match="at least one query"):
            evaluate_similarity(similarity, relevance, junk=junk)
        return
    result = evaluate_similarity(similarity, relevance, junk=junk, ks=KS)
    expected = [brute_force(similarity[i], relevance[i], junk[i]) for i in rows]
    np.testing.assert_allclose(
        result.average_precision[rows], [e["map"] for e in expected]
    )
    assert np.isnan(np.delete(result.average_precision, rows)).all()
    assert result.num_queries == len(rows)
    for name, value in result.metrics.items():
        np.testing.assert_allclose(value, np.mean([e[name] for e in expected]))
    assert set(result.metrics) | {"trapezoid"} == set(expected[0])
    trapezoid = average_precision(
        similarity, relevance, junk=junk, interpolation="trapezoid"
    )
    np.testing.assert_allclose(trapezoid[rows], [e["trapezoid"] for e in expected])


def rows_of_similarities(num_positives, decimals):
    """Six queries of 200 images, of which the positives are somewhat nearer."""
    rng = np.random.default_rng([num_positives, decimals])
    similarity = rng.normal(size=(6, 200)).round(decimals)
    relevance = rng.permuted(np.tile(np.arange(200) < num_positives, (6, 1)), axis=1)
    return similarity + 0.5 * relevance, relevance


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("num_positives", [1, 20, 32, 33, 150])
def test_step_ap_equals_scikit_learn(num_positives, decimals):
    """With ties and without, and with both ways of counting."""
    similarity, relevance = rows_of_similarities(num_positives, decimals)
    expected = [
        average_precision_score(*row) for row in zip(relevance, similarity, strict=True)
    ]
    np.testing.assert_allclose(average_precision(similarity, relevance), expected)


@hypothesis.given(st.data(), st.sampled_from([np.float16, np.float32, np.float64]))
@hypothesis.settings(deadline=None, max_examples=150)
def test_many_positives_among_close_and_extreme_values(data, dtype):
    """The bins change nothing, wherever their edges fall."""
    limit = float(np.finfo(dtype).max)
    values = st.sampled_from(
        [*np.linspace(-1, 1, 7), 0.1, np.nextafter(dtype(0.1), dtype(1)), -limit, limit]
    )
    chosen = data.draw(st.lists(values, min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    similarity = rng.choice(np.array(chosen, dtype), (1, 90))
    relevance = rng.permuted(np.arange(90) < 45)[None]
    expected = brute_force(similarity[0], relevance[0], np.zeros(90))
    metrics = evaluate_similarity(similarity, relevance, ks=KS).metrics
    assert metrics == pytest.approx({name: expected[name] for name in metrics})


def test_by_hand():
    # Ranks 1, 3 and 6 of 6.
    similarity = [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]
    relevance = [[True, False, True, False, False, True]]
    metrics = evaluate_similarity(similarity, relevance, ks=(1, 3, 10)).metrics
    expected = {
        "map": (1 + 2 / 3 + 3 / 6) / 3,
        "map_at_r": (1 + 2 / 3) / 3,
        "recall_at_1": 1,
        "recall_at_3": 1,
        "recall_at_10": 1,
        "precision_at_1": 1,
        "precision_at_3": 2 / 3,
        "precision_at_10": 3 / 10,
        "mp_at_1": 1,
        "mp_at_3": 2 / 3,
        "mp_at_10": 3 / 6,
        "map_at_1": 1,
        "map_at_3": (1 + 2 / 3) / 3,
        "map_at_10": (1 + 2 / 3 + 3 / 6) / 3,
    }
    assert metrics == pytest.approx(expected)
    trapezoid = average_precision(similarity, relevance, interpolation="trapezoid")
    pairs = (1 + 1) + (1 / 2 + 2 / 3) + (2 / 5 + 3 / 6)
    assert trapezoid.tolist() == pytest.approx([pairs / 6])


def test_a_collapsed_model_does_not_look_good():
    similarity = np.ones((8, 8))
    relevance = np.eye(8, dtype=bool)
    metrics = evaluate_similarity(similarity, relevance, ks=(1, 7, 8)).metrics
    assert metrics["recall_at_1"] == metrics["recall_at_7"] == metrics["map_at_r"] == 0
    assert metrics["recall_at_8"] == 1
    assert metrics["map"] == pytest.approx(1 / 8)


def test_perfect_and_worst_rankings():
    relevance = np.arange(100)[None] < 10
    best = evaluate_similarity(-np.arange(100)[None], relevance).metrics
    assert best.pop("precision_at_10") == 1
    assert all(value == 1 for value in best.values())
    worst = evaluate_similarity(np.arange(100)[None], relevance).metrics
    assert worst["map"] == pytest.approx(np.mean(np.arange(1, 11) / np.arange(91, 101)))
    assert worst["recall_at_10"] == worst["map_at_r"] == 0


def test_similarities_are_compared_in_their_own_precision():
    similarity = np.array([[1.0, 1.0 + 1e-12]])  # equal in float32
    assert average_precision(similarity, [[False, True]]) == 1
    integers = np.array([[2**24, 2**24 + 1]])  # equal in float32
    assert average_precision(integers, [[False, True]]) == 1


def test_inputs_are_left_alone():
    similarity = np.array([[0.3, 0.2, 0.1]], np.float32)
    before = similarity.copy()
    evaluate_similarity(similarity, np.array([[False, True, False]]))
    np.testing.assert_array_equal(similarity, before)


def test_queries_without_positives_are_nan():
    values = average_precision([[0.2, 0.1], [0.2, 0.1]], [[False, False], [True, True]])
    np.testing.assert_array_equal(values, [np.nan, 1.0])


@hypothesis.given(
    arrays.arrays(np.float32, st.integers(1, 200), elements=st.integers(-9, 9)),
    st.data(),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_top_of_row_equals_a_stable_sort(row, data):
    k = data.draw(st.integers(1, len(row)))
    np.testing.assert_array_equal(
        top_of_row(row, k), np.argsort(-row, kind="stable")[:k]
    )


@pytest.mark.parametrize("k", [1, 10, 100, 4999, 5000])
def test_top_of_long_row(k):
    row = np.random.default_rng(k).normal(size=5000).astype(np.float32)
    np.testing.assert_array_equal(top_of_row(row, k), np.argsort(-row)[:k])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity": [0.1, 0.2]}, r"\(Q, N\)"),
        ({"similarity": [["a", "b"]]}, "real numbers"),
        ({"similarity": [[np.nan, 0.1]]}, "1 NaN or infinite"),
        ({"similarity": [[-np.inf, 0.1]]}, "`junk` instead"),
        ({"relevance": [[1, 0]]}, "`relevance` to be booleans"),
        ({"relevance": [[True]]}, r"relevance.shape=\(1, 1\)"),
        ({"junk": [[True]]}, r"junk.shape=\(1, 1\)"),
        ({"junk": [[True, True]]}, "disjoint.*1 entries"),
        ({"ks": (0,)}, "integers >= 1"),
        ({"ks": (1.5,)}, "integers >= 1"),
        ({"ks": (10**30,)}, "below 2[*][*]63"),
        ({"ks": 5}, "ks=5"),
        ({"interpolation": "linear"}, "interpolation='linear'"),
        ({"relevance": [[False, False]]}, "at least one query"),
    ],
)
def test_errors(arguments, message):
    valid = {"similarity": [[0.2, 0.1]], "relevance": [[True, False]]}
    with pytest.raises(ValueError, match=message):
        evaluate_similarity(**{**valid, **arguments})
