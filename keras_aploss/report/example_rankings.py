"""Example rankings: which queries to show, and what they find.

Pure functions of embeddings and labels, for `RetrievalTensorBoard` and for reports.

Dimension key: N images, D units, K results.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.evaluation import check_queries, top_k
from keras_aploss.files import as_text
from keras_aploss.report.rankings import Ranking


class ExampleRankings(NamedTuple):
    """Queries to show with what they find.

    Attributes:
        title: What they have in common.
        queries: Their numbers among the N images.
        rows: Name of a model -> the ranking of each query.
    """

    title: str
    queries: Sequence[int]
    rows: Mapping[str, Sequence[Ranking]]


def choose_queries(
    labels: np.ndarray, num_queries: int, candidates: Sequence[int] | None = None
) -> np.ndarray:
    """Choose queries that have a positive, of as many classes as possible.

    The choice depends on the labels alone, so pictures of different epochs and runs can
    be compared.

    Args:
        labels: Integer labels, (N,); a negative one marks a distractor.
        num_queries: The number to choose. They are fewer if too few have a positive.
        candidates: Numbers of the images that query, if the others are the database;
            None: each image queries all the others.

    Example:
    With candidates, a positive is one among the others: here the last image of label 6.

    >>> import numpy as np
    >>> from keras_aploss.report import choose_queries
    >>> labels = np.array([4, 4, 5, 6, 6, 6, -1])
    >>> choose_queries(labels, 3), choose_queries(labels, 3, [0, 1, 3, 4])
    (array([0, 3, 1]), array([3, 4]))
    """
    labels = np.asarray(labels)
    database, needed = labels, 2
    if candidates is None:
        candidates = np.arange(len(labels))
    else:
        candidates = np.sort(check_queries(candidates, labels))
        database, needed = np.delete(labels, candidates), 1
    values, counts = np.unique(database[database >= 0], return_counts=True)
    eligible = candidates[np.isin(labels[candidates], values[counts >= needed])]
    eligible = eligible[np.argsort(labels[eligible], kind="stable")]
    _, starts, inverse = np.unique(
        labels[eligible], return_index=True, return_inverse=True
    )
    if len(starts) >= num_queries:
        return spread(eligible[starts], num_queries)
    turn = np.arange(len(eligible)) - starts[inverse]  # n-th image of its class
    return eligible[np.argsort(turn, kind="stable")][:num_queries]


def rank_queries(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    embeddings: np.ndarray,
    queries: Sequence[int],
    *,
    database: Sequence[int] | None = None,
    num_results: int = 10,
    average_precision: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Ranking]:
    """Rank the other images for some queries, ready for `draw_rankings`.

    Args:
        images: The N images, an array or any sequence such as `ImageFiles`.
        labels: Integer labels, (N,).
        embeddings: Unit-length embeddings, (N, D).
        queries: Indices of the images to use as queries.
        database: Indices of the images to rank; by default all.
        num_results: Number of results K.
        average_precision: The AP of each of the N images, `RetrievalResult`'s.
        class_names: Label -> name.

    Returns:
        One `Ranking` per query.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.report import rank_queries
    >>> images = np.zeros((3, 8, 8, 3), "uint8")
    >>> embeddings = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    >>> rank_queries(images, np.array([0, 0, 1]), embeddings, [0])[0].relevant
    [False, True]
    """
    queries, labels = np.asarray(queries), np.asarray(labels)
    embeddings = np.asarray(embeddings)
    database = np.arange(len(labels)) if database is None else np.asarray(database)
    k = min(num_results + 1, len(database))
    indices, similarities = top_k(embeddings[queries], embeddings[database], k)
    indices = database[indices]
    rankings = []
    for row, query in enumerate(queries):
        kept = np.flatnonzero(indices[row] != query)[:num_results]
        results, label = indices[row, kept], labels[query]
        precision = math.nan if average_precision is None else average_precision[query]
        ranking = Ranking(
            query=images[int(query)],
            results=[images[int(result)] for result in results],
            relevant=[bool(labels[result] == label >= 0) for result in results],
            similarities=similarities[row, kept].tolist(),
            average_precision=float(precision),
            name=class_name(label, class_names),
            indices=results.tolist(),
        )
        rankings.append(ranking)
    return rankings


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """Name a label; without names, or for a distractor, by its number.

    The name can be shown and written anywhere, see `as_text`.

    >>> class_name(1, ["bridge", "tower"]), class_name(1, None), class_name(-1, ["a"])
    ('tower', '1', '-1')
    """
    known = class_names is not None and 0 <= label < len(class_names)
    return as_text(str(class_names[label]) if known else str(label))


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """Take at most `count` of the values, evenly spaced, in order.

    >>> spread(np.arange(10), 4)
    array([0, 3, 6, 9])
    """
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype("int64")]
