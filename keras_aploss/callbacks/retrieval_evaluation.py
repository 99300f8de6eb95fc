"""Exact retrieval metrics in the logs of `fit`.

Dimension key: N images, D units.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_aploss.evaluation import (
    RetrievalResult,
    embed,
    evaluate_leave_one_out,
    evaluate_query_database,
    relevant_by_label,
)


class Snapshot(NamedTuple):
    """What `RetrievalEvaluation` saw after an epoch.

    Attributes:
        epoch: Index of the epoch; one less than the first for the untrained model.
        embeddings: Embeddings of all the images, (N, D).
        result: Their exact evaluation; its `average_precision` is `(N,)`, NaN for an
            image that does not query.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import Snapshot, evaluate_embeddings
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
        embeddings: `(N, D)`.
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
    labels = _check_labels(labels, len(embeddings))
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


def _check_labels(labels: Sequence[int], num_images: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected `labels` to hold one integer per image. Received: "
            f"labels.shape={labels.shape}, labels.dtype={labels.dtype}, "
            f"for {num_images} images."
        )
    return labels


def _check_pairs(labels: np.ndarray) -> None:
    _, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not np.any(counts > 1):
        raise ValueError(
            "Expected a label that at least two images share: otherwise no query has "
            f"a positive. Received: labels={labels}."
        )


class RetrievalEvaluation(keras.callbacks.Callback):
    """Measure exact retrieval metrics at the end of the epochs.

    All images are embedded in inference mode, each queries all the others (or, with
    `queries`, some query the rest), and the exact metrics are added to the logs as
    `val_map`, `val_recall_at_1` and `val_map_at_r`. Put this callback before those that
    read them (ModelCheckpoint, EarlyStopping, TensorBoard); the progress bar and the
    history show them, too.

    An epoch that is skipped adds nothing to the logs, so ModelCheckpoint does not save
    then, and EarlyStopping does not count it.

    Args:
        images: N images of classes not seen in training, an array or any sequence
            such as `data.ImageFiles`, in the form that the model accepts.
        labels: Integer labels, (N,); a negative one marks a distractor.
        queries: Numbers of the images that query, each once, if the others are the
            database.
        batch_size: Images embedded at once.
        every: Evaluate after every so many epochs, and after the last.
        evaluate_before: Also evaluate the model as it is before the first epoch.
        prefix: Begin of the names of the logs.
        workers: Threads that read the images.

    Attributes:
        last: The latest `Snapshot`, or `None`.
        before: The `Snapshot` from before training, or `None`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss import RetrievalEvaluation
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), "uint8")
    >>> labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> layers = [keras.layers.Flatten(), keras.layers.UnitNormalization()]
    >>> model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    >>> evaluation = RetrievalEvaluation(images, labels)
    >>> evaluation.set_model(model)
    >>> sorted(evaluation.evaluate(epoch=0).result.metrics)[:2]
    ['map', 'map_at_1']
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        labels: Sequence[int],
        *,
        queries: Sequence[int] | None = None,
        batch_size: int = 64,
        every: int = 1,
        evaluate_before: bool = False,
        prefix: str = "val_",
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.images = images
        self.labels = _check_labels(labels, len(images))
        if queries is None:
            _check_pairs(self.labels)
        else:
            queries = check_queries(queries, self.labels)
        if every < 1:
            raise ValueError(
                f"Expected `every` to be at least 1. Received: every={every}."
            )
        self.queries = queries
        self.batch_size = batch_size
        self.every = every
        self.evaluate_before = evaluate_before
        self.prefix = prefix
        self.workers = workers
        self.last: Snapshot | None = None
        self.before: Snapshot | None = None

    def evaluate(self, epoch: int) -> Snapshot:
        """Embed and evaluate the images with the model as it is; sets `last`."""
        embeddings = embed(
            self.model, self.images, batch_size=self.batch_size, workers=self.workers
        )
        result = evaluate_embeddings(embeddings, self.labels, self.queries)
        self.last = Snapshot(epoch, embeddings, result)
        return self.last

    @property
    def database(self) -> np.ndarray | None:
        """Numbers of the images that are ranked; None: all of them."""
        if self.queries is None:
            return None
        return np.setdiff1d(np.arange(len(self.labels)), self.queries)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget the snapshots of an earlier `fit`."""
        self.last = self.before = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate the untrained model, if asked to."""
        if self.evaluate_before and self.before is None:
            self.before = self.evaluate(epoch - 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate, and add the metrics to the logs."""
        is_last = epoch + 1 == (self.params or {}).get("epochs")
        if (epoch + 1) % self.every and not is_last:
            return
        metrics = self.evaluate(epoch).result.metrics
        if logs is not None:
            for name in ("map", "recall_at_1", "map_at_r"):
                logs[self.prefix + name] = float(metrics[name])
