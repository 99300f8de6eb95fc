"""What a person sees of an evaluation: figures in a file, rankings in pictures.

Dimension key: ``N`` images, ``D`` units.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from keras_aploss.callbacks import Snapshot, choose_queries, rank_queries
from keras_aploss.datasets import ImageSet
from keras_aploss.pictures import draw_rankings
from keras_aploss.pictures.charts import draw_curves


def pixel_embeddings(images: Sequence[np.ndarray], side: int = 64) -> np.ndarray:
    """Describe images by their own pixels: the baseline that needs no training.

    Args:
        images: N images of one shape `(H, W, 3)`.
        side: larger images are thinned out to about this many rows and columns.

    Returns:
        `(N, D)` float32 rows of unit length.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import pixel_embeddings
    >>> images = np.full((2, 8, 8, 3), 7, "uint8")
    >>> first, second = pixel_embeddings(images)
    >>> round(float(first @ second), 4)
    1.0
    """
    step = max(1, min(np.asarray(images[0]).shape[:2]) // side)
    pixels = np.stack(
        [np.asarray(images[i])[::step, ::step].reshape(-1) for i in range(len(images))]
    ).astype("float32")
    # A black image has no direction; any will do.
    pixels[~pixels.any(axis=1)] = 1.0
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def write_evaluation(
    folder: str | os.PathLike,
    image_set: ImageSet,
    snapshot: Snapshot,
    *,
    before: Snapshot | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    queries: Sequence[int] | None = None,
    num_rows: int = 6,
) -> list[pathlib.Path]:
    """Write `evaluation.json` and pictures of rankings into a folder.

    Args:
        folder: made if it does not exist.
        image_set: the N images that were evaluated.
        snapshot: their embeddings and result, from `RetrievalEvaluation`.
        before: those of the untrained model, to be drawn above.
        metrics: rows of metrics by name for the file; by default those of `snapshot`
            as `"model"`.
        queries: the images that query, if the others are the database.
        num_rows: queries in each picture.

    Returns:
        The files written: the figures, `rankings.png` (queries of as many classes as
        possible), `worst_queries.png` and `best_queries.png`.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from keras_aploss import ImageSet, Snapshot, evaluate_embeddings
    >>> from keras_aploss import write_evaluation
    >>> labels = np.array([0, 0, 1, 1])
    >>> birds = ImageSet(np.zeros((4, 32, 32, 3), "uint8"), labels, ["crow", "jay"])
    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    >>> snapshot = Snapshot(0, embeddings, evaluate_embeddings(embeddings, labels))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_evaluation(folder, birds, snapshot)
    >>> sorted(path.name for path in written)[:2]
    ['best_queries.png', 'evaluation.json']
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    precision = snapshot.result.average_precision
    rows = {"model": snapshot.result.metrics} if metrics is None else metrics
    figures = {
        "num_images": len(image_set.labels),
        "num_queries": int(np.isfinite(precision).sum()),
        "metrics": {name: dict(values) for name, values in rows.items()},
        "average_precision": [None if np.isnan(ap) else float(ap) for ap in precision],
    }
    written = [folder / "evaluation.json"]
    text = json.dumps(_without_nan(figures), indent=1)
    written[0].write_text(text + "\n", encoding="utf-8")

    database = None
    if queries is not None:
        database = np.setdiff1d(np.arange(len(precision)), queries)

    def draw(name, chosen, title):
        def rankings(shot):
            return rank_queries(
                image_set.images, image_set.labels, shot.embeddings, chosen,
                average_precision=shot.result.average_precision,
                class_names=image_set.class_names, database=database, num_results=8,
            )  # fmt: skip

        earlier = None if before is None else rankings(before)
        picture = draw_rankings(rankings(snapshot), before=earlier, title=title)
        picture.save(folder / name)
        written.append(folder / name)

    order = np.argsort(precision, kind="stable")  # NaN, no query, comes last
    order = order[np.isfinite(precision[order])]
    mean = f"mAP {snapshot.result.metrics['map']:.3f}"
    shown = choose_queries(image_set.labels, num_rows, queries)
    draw("rankings.png", shown, f"Queries of unseen classes, {mean}")
    draw("worst_queries.png", order[:num_rows], f"The worst queries, {mean}")
    draw("best_queries.png", order[::-1][:num_rows], f"The best queries, {mean}")
    return written


def write_curves(folder: str | os.PathLike, history: Sequence[Mapping]) -> pathlib.Path:
    """Draw the loss and the metrics of each epoch into `curves.png`."""
    names = [n for n in ("loss", "val_map", "val_recall_at_1") if n in history[0]]
    curves = {n: [row.get(n, np.nan) for row in history] for n in names}
    path = pathlib.Path(folder) / "curves.png"
    draw_curves(curves, title="Training: AP loss, and metrics on unseen classes").save(
        path
    )
    return path


def _without_nan(value):
    """JSON has no NaN: a metric that has no value is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
