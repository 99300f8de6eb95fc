"""Exact retrieval metrics in the logs of `fit`.

Dimension key: N images, D units.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_aploss.embeddings import embed
from keras_aploss.evaluation import (
    Snapshot,
    check_image_labels,
    check_queries,
    evaluate_embeddings,
)


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
            such as `ImageFiles`, in the form that the model accepts.
        labels: Integer labels, (N,); a negative one marks a distractor.
        queries: Indices of the images that query, each once, if the others are the
            database.
        batch_size: Images embedded at once.
        every: Evaluate after every so many epochs, and after the last.
        evaluate_before: Also evaluate the model as it is before the first epoch.
        prefix: Start of the names of the logs.
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
        self.labels = check_image_labels(labels, len(images))
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
        """Indices of the images that are ranked; None: all of them."""
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
