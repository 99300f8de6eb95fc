import numpy as np
import pytest

from keras_aploss.evaluation import evaluate_embeddings
from keras_aploss.report import choose_queries, rank_queries


def test_queries_have_positives_and_spread_over_the_classes():
    labels = np.array([-1, -1, 9, 3, 3, 5, 5, 5, 7, 7])
    assert choose_queries(labels, 3).tolist() == [3, 5, 8]
    assert choose_queries(labels, 5).tolist() == [3, 5, 8, 4, 6]
    assert len(choose_queries(labels, 99)) == 7
    assert labels[choose_queries(labels, 2)].tolist() == [3, 7]


def test_queries_have_positives_in_the_database():
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert choose_queries(labels, 3, [0, 1, 2]).tolist() == [2]
    # The only positive of each is enough; the candidates need none among themselves.
    assert choose_queries(labels, 9, [4, 3, 0]).tolist() == [0, 3, 4]
    assert choose_queries(labels, 2, [4, 3, 0]).tolist() == [0, 3]
    evaluated = evaluate_embeddings(np.eye(6), labels, [0, 1, 2]).average_precision
    assert np.flatnonzero(~np.isnan(evaluated)).tolist() == [2]


def test_rankings_are_in_order_and_leave_the_query_out():
    angles = np.array([0.0, 0.1, 0.5, 0.2, 0.0])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones(
        (1, 4, 4, 3), "uint8"
    )
    ranking = rank_queries(
        images, np.array([0, 0, 0, -1, 1]), embeddings, [0],
        num_results=3, class_names=["bridge", "tower"],
        average_precision=np.array([0.7, 1, 1, np.nan, np.nan]),
    )[0]  # fmt: skip
    assert [int(image[0, 0, 0]) for image in ranking.results] == [4, 1, 3]
    assert ranking.relevant == [False, True, False]
    assert ranking.similarities == pytest.approx(np.cos([0, 0.1, 0.2]))
    assert (ranking.name, ranking.average_precision) == ("bridge", 0.7)
