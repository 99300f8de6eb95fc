"""Precision-recall curves and mAP per class, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve
from test_evaluation_metrics import rows_of_similarities

from keras_aploss import evaluate_leave_one_out, evaluate_query_database
from keras_aploss.evaluation import (
    evaluate_similarity,
    map_per_class,
    relevant_by_label,
)
from keras_aploss.evaluation.curves import interpolated_precision


def curve_of(similarity, relevance, levels):
    """The best precision of scikit-learn's curve at each recall or beyond."""
    precision, recall, _ = precision_recall_curve(relevance, similarity)
    # Its last point, recall 0 at precision 1, is made up.
    precision, recall = precision[:-1], recall[:-1]
    return [precision[recall >= level - 1e-12].max() for level in levels]


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("num_positives", [1, 7, 20, 100, 133])
def test_curve_equals_scikit_learn(num_positives, decimals):
    """With ties and without; with fewer positives than levels, as many, and more."""
    similarity, relevance = rows_of_similarities(num_positives, decimals)
    levels = np.linspace(0, 1, 101)
    expected = np.mean(
        [curve_of(*row, levels) for row in zip(similarity, relevance, strict=True)], 0
    )
    found = evaluate_similarity(similarity, relevance).precision_at_recall
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.diff(found) <= 1e-15).all()


def test_curve_of_embeddings_is_the_mean_over_queries_with_positives():
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(150, 5)).astype("float32")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    # Classes of different sizes, one of a single image, and distractors.
    labels = np.concatenate(
        [np.repeat(np.arange(6), [40, 30, 25, 20, 14, 1]), [-1] * 20]
    )
    levels = np.linspace(0, 1, 101)
    similarity = embeddings @ embeddings.T
    rows = []
    for query in range(129):
        others = np.arange(150) != query
        rows.append(
            curve_of(similarity[query, others], labels[others] == labels[query], levels)
        )
    result = evaluate_leave_one_out(embeddings, labels)
    np.testing.assert_allclose(result.precision_at_recall, np.mean(rows, 0), rtol=1e-9)

    queries, database = np.arange(0, 150, 3), np.delete(np.arange(150), np.s_[::3])
    relevant = relevant_by_label(labels[queries], labels[database])
    rows = [
        curve_of(similarity[query, database], labels[database] == labels[query], levels)
        for query, positives in zip(queries, relevant, strict=True)
        if len(positives)
    ]
    result = evaluate_query_database(
        embeddings[queries], embeddings[database], relevant, distractors=[]
    )
    np.testing.assert_allclose(result.precision_at_recall, np.mean(rows, 0), rtol=1e-9)


def test_levels_are_exact_where_floats_are_not():
    """0.07 * 100 is above 7 in floats: the 8th positive would be asked for."""
    precision = np.linspace(1, 0.01, 100)
    curve = interpolated_precision(precision, np.array([100]))[0]
    np.testing.assert_array_equal(curve, np.concatenate([[1], precision]))


def test_curve_by_hand():
    # Ranks 2, 3 and 10; another query with rank 1 only.
    precision = np.array([1 / 2, 2 / 3, 3 / 10, 1.0])
    curve = interpolated_precision(precision, np.array([3, 1]), 11)
    np.testing.assert_allclose(curve[0], [2 / 3] * 7 + [0.3] * 4)
    np.testing.assert_array_equal(curve[1], np.ones(11))
    assert precision[0] == 1 / 2  # left as it was


def test_a_collapsed_model_has_a_flat_curve():
    relevance = [[True, False, False, True, False]]
    result = evaluate_similarity(np.zeros((1, 5)), relevance)
    np.testing.assert_array_equal(result.precision_at_recall, np.full(101, 0.4))


def test_map_per_class_is_the_mean_of_its_queries():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 40, 300)
    precision = rng.uniform(size=300)
    precision[(labels == -1) | (labels == 17) | (rng.uniform(size=300) < 0.3)] = np.nan
    classes, values, counts = map_per_class(precision, labels)
    expected = {
        label: precision[(labels == label) & ~np.isnan(precision)]
        for label in sorted(set(labels.tolist()) - {-1, 17})
    }
    assert classes.tolist() == list(expected)
    np.testing.assert_allclose(values, [part.mean() for part in expected.values()])
    assert counts.tolist() == [len(part) for part in expected.values()]


def test_map_per_class_of_no_query_is_empty():
    assert [len(part) for part in map_per_class([np.nan, np.nan], [0, 0])] == [0, 0, 0]


def test_map_per_class_wants_an_ap_for_each_label():
    with pytest.raises(ValueError, match="one AP, or NaN, for each label"):
        map_per_class([0.5], [0, 1])
