"""One set of images, evaluated as a whole: leave-one-out, or queries and database.

Dimension key: N images, D units.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.evaluation.inputs import check_labels
from keras_aploss.evaluation.metrics import RetrievalResult
from keras_aploss.evaluation.protocols import (
    evaluate_leave_one_out,
    evaluate_query_database,
    relevant_by_label,
)


class Snapshot(NamedTuple):
    """Embeddings and metrics of the evaluation set after an epoch.

    Attributes:
        epoch: Index of the epoch; one less than the first for the untrained model.
        embeddings: Embeddings of all the images, (N, D).
        result: Their exact evaluation; its `average_precision` is `(N,)`, NaN for an
            image that does not query.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import evaluate_embeddings
    >>> from keras_aploss.evaluation import Snapshot
    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1]])
    >>> snapshot = Snapshot(4, embeddings, evaluate_embeddings(embeddings, [5, 5, 6]))
    >>> snapshot.epoch, snapshot.result.metrics["map"]
    (4, 1.0)
    """

    epoch: int
    embeddings: np.ndarray
    result: RetrievalResult


def evaluate_embeddings(
    embeddings: np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[int],
    queries: Sequence[int] | None = None,
) -> RetrievalResult:
    """Evaluate one set of images, leave-one-out or as queries and database.

    Args:
        embeddings: `(N, D)` floats, rows of unit length (or zeros); others are refused
            with a ValueError.
        labels: `(N,)` integers.
        queries: numbers of the images that query, each once; the others are the
            database. None: each image queries all the others.

    Returns:
        The exact result, with one AP per image, `(N,)`: NaN if it does not query or
        has no positive.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import evaluate_embeddings
    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1]])
    >>> evaluate_embeddings(embeddings, [5, 5, 6], queries=[0]).average_precision
    array([ 1., nan, nan])
    """
    if queries is None:
        return evaluate_leave_one_out(embeddings, labels)
    embeddings = np.asarray(embeddings)
    labels = check_image_labels(labels, len(embeddings))
    queries = check_queries(queries, labels)
    database = np.setdiff1d(np.arange(len(labels)), queries)
    result = evaluate_query_database(
        embeddings[queries],
        embeddings[database],
        relevant_by_label(labels[queries], labels[database]),
    )
    precision = np.full(len(labels), np.nan)
    precision[queries] = result.average_precision
    return dataclasses.replace(result, average_precision=precision)


def check_queries(queries: Sequence[int], labels: np.ndarray) -> np.ndarray:
    """The numbers of the images that query, checked against the `(N,)` labels.

    >>> check_queries([2, 0], np.array([5, 5, 6]))
    array([2, 0])
    """
    queries = np.asarray(queries)
    problem = None
    if queries.ndim != 1 or queries.dtype.kind not in "iu":
        problem = f"queries.shape={queries.shape}, queries.dtype={queries.dtype}"
    elif len(queries) and not 0 <= queries.min() <= queries.max() < len(labels):
        problem = f"queries from {queries.min()} to {queries.max()}"
    elif len(np.unique(queries)) < len(queries):
        problem = f"{len(queries)} queries, of which {len(np.unique(queries))} distinct"
    if problem:
        raise ValueError(
            "Expected `queries` to hold distinct integers, numbers of the "
            f"{len(labels)} images from 0. Received: {problem}. Use np.flatnonzero to "
            "make numbers of a mask."
        )
    database = np.delete(labels, queries)
    if not np.isin(labels[queries], database[database >= 0]).any():
        raise ValueError(
            "Expected a query with an image of its label among those that do not "
            f"query. Received: labels={labels[queries]} of the {len(queries)} queries, "
            f"labels={database} of the {len(database)} others."
        )
    return queries


def check_image_labels(labels: Sequence[int], num_images: int) -> np.ndarray:
    """The labels as an array `(N,)` of integers, one per image."""
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected `labels` to hold one integer per image. Received: "
            f"labels.shape={labels.shape}, labels.dtype={labels.dtype}, "
            f"for {num_images} images."
        )
    return check_labels(labels, "labels")
