"""Rankings, similarities and embeddings of a training run, in TensorBoard.

Dimension key: N images, D units, M bins, K results.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from keras_aploss.callbacks.retrieval_evaluation import RetrievalEvaluation
from keras_aploss.evaluation import Snapshot
from keras_aploss.report import (
    choose_queries,
    class_name,
    draw_rankings,
    draw_sprite,
    fit_image,
    rank_queries,
    similarity_histogram,
    spread,
)

# As many as a browser still turns smoothly.
MAX_POINTS = 5000

# Eight results are then as wide as TensorBoard's page in a window of 1400 pixels.
IMAGE_SIZE = 88

# The histogram plugin takes ready bins, (M, 3): left edge, right edge, count. The
# public `tf.summary.histogram` would bin again, by edges of its own.
_HISTOGRAM = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="histograms")
)


class RetrievalTensorBoard(keras.callbacks.Callback):
    """Draw rankings, similarities and embeddings in TensorBoard.

    Whenever `evaluation` has evaluated, writes to the run `retrieval`:

    - Images: `rankings`, some queries with their top results, framed green where
      relevant and red where not.
    - Histograms: `similarity/positive` and `similarity/negative`, over the bins of the
      loss: the further apart the two are, the better the AP.
    - Scalars: `learning_rate`; `gem_p/<layer>`, the exponent of each pooling layer
      that learns one.
    - Projector: the embeddings with thumbnails, class and AP of each image; and those
      from before training if the evaluation has them. TensorBoard reads these files
      only once: restart it to see those of a later epoch.

    An epoch takes one or two megabytes of disk, nearly all for the pictures; the
    evaluation's `every` spares some.

    Loss and metrics are written by `keras.callbacks.TensorBoard`; the head of this
    module shows the list of callbacks.

    Args:
        log_dir: Directory that `tensorboard --logdir` is given; share it with
            `keras.callbacks.TensorBoard`.
        evaluation: The `RetrievalEvaluation` of the same list of callbacks, before
            this one. Its embeddings are used again.
        loss: The loss whose bins are used, by its attributes `num_bins` and
            `similarity_range`. By default the loss that the model is compiled with;
            one without these attributes gets 20 bins on [-1, 1].
        num_queries: Number of queries in `rankings`.
        num_results: Number of results K of each.
        class_names: Label -> name; the labels themselves by default.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import RetrievalEvaluation, RetrievalTensorBoard
    >>> evaluation = RetrievalEvaluation(np.zeros((2, 4, 4, 3), "uint8"), [0, 0])
    >>> callbacks = [evaluation, RetrievalTensorBoard("logs", evaluation)]
    """

    def __init__(
        self,
        log_dir: str | pathlib.Path,
        evaluation: RetrievalEvaluation,
        *,
        loss: keras.losses.Loss | None = None,
        num_queries: int = 8,
        num_results: int = 8,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.run_dir = pathlib.Path(log_dir) / "retrieval"
        self.evaluation = evaluation
        self.loss = loss
        self.num_results = num_results
        self.class_names = class_names
        self.queries = choose_queries(
            evaluation.labels, num_queries, evaluation.queries
        )
        self._writer = None
        self._written: Snapshot | None = None
        self._thumbnail_size: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the run."""
        if self.evaluation.model is not self.model:
            raise ValueError(
                "Expected `evaluation` to be in the same list of callbacks. Received: "
                f"evaluation={self.evaluation!r}, which does not belong to the model "
                "being trained. Use `fit(..., callbacks=[evaluation, tensorboard])`."
            )
        self._writer = tf.summary.create_file_writer(str(self.run_dir))
        self._written = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what the evaluation saw before training."""
        self._write()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what the evaluation saw after the epoch."""
        self._write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the run."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        snapshot = self.evaluation.last
        if snapshot is None or snapshot is self._written:
            return
        with self._writer.as_default(step=snapshot.epoch):
            self._write_scalars()
            self._write_similarities(snapshot)
            self._write_rankings(snapshot)
        self._writer.flush()
        self._write_projector(snapshot)
        self._written = snapshot

    def _write_scalars(self) -> None:
        rate = getattr(self.model.optimizer, "learning_rate", None)
        if rate is not None:
            tf.summary.scalar("learning_rate", float(_to_numpy(rate)))
        for layer, p in _gem_exponents(self.model):
            tf.summary.scalar(f"gem_p/{layer}", float(p.mean()))

    def _write_similarities(self, snapshot: Snapshot) -> None:
        loss = self.loss or getattr(self.model, "loss", None)
        limits = getattr(loss, "similarity_range", (-1.0, 1.0))
        centers, positives, negatives = similarity_histogram(
            snapshot.embeddings,
            self.evaluation.labels,
            num_bins=getattr(loss, "num_bins", 20),
            similarity_range=limits,
        )
        half = (centers[0] - centers[1]) / 2
        for name, counts in (("positive", positives), ("negative", negatives)):
            bins = np.stack([centers - half, centers + half, counts], axis=1)[::-1]
            tf.summary.write(f"similarity/{name}", bins, metadata=_HISTOGRAM)

    def _write_rankings(self, snapshot: Snapshot) -> None:
        rankings = rank_queries(
            self.evaluation.images,
            self.evaluation.labels,
            snapshot.embeddings,
            self.queries,
            database=self.evaluation.database,
            num_results=self.num_results,
            average_precision=snapshot.result.average_precision,
            class_names=self.class_names,
        )
        title = f"mAP {snapshot.result.metrics['map']:.3f} {_when(snapshot)}"
        picture = draw_rankings(rankings, title=title, size=IMAGE_SIZE)
        tf.summary.image("rankings", np.asarray(picture)[None])

    def _write_projector(self, snapshot: Snapshot) -> None:
        points = spread(np.arange(len(self.evaluation.labels)), MAX_POINTS)
        if self._thumbnail_size is None:
            images = self.evaluation.images
            # Shrunk one by one: large images need not fit memory together.
            thumbnails = [np.asarray(fit_image(images[int(i)], 64)) for i in points]
            sheet, self._thumbnail_size = draw_sprite(thumbnails, size=64)
            sheet.save(self.run_dir / "sprite.png")
        _write_metadata(
            self.run_dir / "metadata.tsv",
            self.evaluation.labels[points],
            snapshot.result.average_precision[points],
            self.class_names,
        )
        config = projector.ProjectorConfig()
        # The projector opens the first in alphabetical order.
        before = self.evaluation.before
        tensors = {"embeddings": snapshot, "embeddings_before_training": before}
        for name, shown in tensors.items():
            if shown is not None:
                path = self.run_dir / f"{name}.tsv"
                np.savetxt(path, shown.embeddings[points], "%.6g", delimiter="\t")
                info = config.embeddings.add()
                info.tensor_name, info.tensor_path = name, path.name
                info.metadata_path = "metadata.tsv"
                info.sprite.image_path = "sprite.png"
                info.sprite.single_image_dim.extend([self._thumbnail_size] * 2)
        projector.visualize_embeddings(str(self.run_dir), config)


def _when(snapshot: Snapshot) -> str:
    # Epochs count from 0 in Keras's logs and in TensorBoard, so here, too.
    return f"after epoch {snapshot.epoch}" if snapshot.epoch >= 0 else "before training"


def _to_numpy(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _gem_exponents(model: keras.Model) -> list[tuple[str, np.ndarray]]:
    """Find the layers, at any depth, with a weight `p`, as GeM pooling has."""
    found = [variable for variable in model.variables if variable.name == "p"]
    names = [v.path.removeprefix(f"{model.name}/").removesuffix("/p") for v in found]
    return list(zip(names, map(_to_numpy, found), strict=True))


def _write_metadata(
    path: pathlib.Path,
    labels: np.ndarray,
    average_precision: np.ndarray,
    class_names: Sequence[str] | None,
) -> None:
    lines = ["class\tlabel\tAP"]
    for label, precision in zip(labels.tolist(), average_precision, strict=True):
        name = " ".join(class_name(label, class_names).split())
        # The projector colours by a column of numbers only if all others are empty.
        number = "" if np.isnan(precision) else f"{precision:.3f}"
        lines.append(f"{name}\t{label}\t{number}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
