"""Exact retrieval metrics in the logs of `fit`.

Dimension key: N images, D units.
"""

import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_aploss.embeddings import embed
from keras_aploss.evaluation import (
    Snapshot,
    check_image_labels,
    check_queries,
    check_unit_length,
    evaluate_embeddings,
)
from keras_aploss.losses import is_of_batch

logger = logging.getLogger(__name__)


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
    read them (ModelCheckpoint, EarlyStopping, TensorBoard), and tell these
    `mode="max"`: Keras cannot know that more is better. The progress bar and the
    history show them, too.

    The model has to end in unit length (`keras.layers.UnitNormalization()`), as
    `retrieval_model` does: the dot products of other embeddings are no cosines, and
    make `APLoss` NaN. Another model is refused before the first step.

    `val_loss` and `val_batch_ap`, which Keras makes of `validation_data`, are no
    substitute: they rank each validation batch by itself. Where batches are sorted by
    class, most images of a batch are positives and any model looks perfect. A warning
    in the log says so.

    An optimizer with `use_ema=True` trains one set of weights and leaves another, their
    moving average. To measure and keep what it leaves, put
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` before this callback. Without
    it, a warning in the log says that other weights were measured.

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

    Raises:
        ValueError: labels or queries do not fit; and in training or `evaluate`, if an
            embedding is not finite or not of unit length (or zeros).

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
        self._measured: list[np.ndarray] | None = None  # with `use_ema`
        self._has_warned = False

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
        """Forget the snapshots of an earlier `fit`, and look at an embedding.

        Raises:
            ValueError: it is not finite and of unit length.
        """
        self.last = self.before = self._measured = None
        self._has_warned = False
        if not self.evaluate_before:
            # In a batch of the size of all others: compiled once.
            some = [np.asarray(self.images[0])] * min(self.batch_size, len(self.images))
            embeddings = embed(self.model, some, batch_size=self.batch_size)
            check_unit_length(embeddings, "model(images)")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate the untrained model, if asked to."""
        if self._measured is not None and self._are_measured():
            self._warn_of_average("the training goes on with, no moving average")
        if self.evaluate_before and self.before is None:
            self.before = self.evaluate(epoch - 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate, and add the metrics to the logs."""
        is_last = epoch + 1 == (self.params or {}).get("epochs")
        if (epoch + 1) % self.every and not is_last:
            return
        metrics = self.evaluate(epoch).result.metrics
        if _averages_weights(self.model.optimizer):
            self._measured = self._weights()
        if logs is not None:
            self._warn_of_validation_batches(logs)
            for name in ("map", "recall_at_1", "map_at_r"):
                logs[self.prefix + name] = float(metrics[name])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say so if the optimizer has left other weights than were measured."""
        if self._measured is not None and not self._are_measured():
            self._warn_of_average("`fit` has not left in the model")

    def _weights(self) -> list[np.ndarray]:
        variables = self.model.trainable_variables
        return [keras.ops.convert_to_numpy(v).copy() for v in variables]

    def _are_measured(self) -> bool:
        return all(map(np.array_equal, self._weights(), self._measured))

    def _warn_of_average(self, what: str) -> None:
        self._measured = None
        logger.warning(
            "%s* was measured with weights that %s: the optimizer has `use_ema=True`. "
            "Put `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` before "
            "RetrievalEvaluation in the list of callbacks; and where a callback ends "
            "the training early, take the weights that ModelCheckpoint has kept.",
            self.prefix,
            what,
        )

    def _warn_of_validation_batches(self, logs: dict[str, Any]) -> None:
        losses = keras.tree.flatten(getattr(self.model, "loss", None))
        if self._has_warned or "val_loss" not in logs:
            return
        if any(map(is_of_batch, losses)):
            self._has_warned = True
            logger.warning(
                "val_loss ranks each batch of `validation_data` by itself, and is low "
                "for any model where these are sorted by class. Monitor %smap "
                '(mode="max") instead, and leave `validation_data` out.',
                self.prefix,
            )


def _averages_weights(optimizer: Any) -> bool:
    """Whether `fit` ends by replacing the weights by their moving average, another."""
    # A LossScaleOptimizer holds the one that updates the weights.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # After one step the average is the weights themselves.
    return getattr(optimizer, "use_ema", False) and int(optimizer.iterations) > 1
