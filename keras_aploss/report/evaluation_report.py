"""The report of an evaluation for people: a page, figures, pictures.

Dimension key: ``N`` images, ``D`` units.
"""

import collections
import dataclasses
import datetime
import importlib
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_aploss import __version__
from keras_aploss.datasets import ImageSet
from keras_aploss.evaluation import RetrievalResult, Snapshot, map_per_class
from keras_aploss.files import replaced
from keras_aploss.report.example_rankings import (
    ExampleRankings,
    choose_queries,
    class_name,
    rank_queries,
)
from keras_aploss.report.page import ClassRow, write_page
from keras_aploss.report.rankings import draw_rankings


def pixel_embeddings(images: Sequence[np.ndarray], side: int = 64) -> np.ndarray:
    """Describe images by their own pixels: the baseline that needs no training.

    Args:
        images: N images of one shape `(H, W, 3)`.
        side: larger images are thinned out to about this many rows and columns.

    Returns:
        `(N, D)` float32 rows of unit length.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.report import pixel_embeddings
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
    results: Mapping[str, RetrievalResult] | None = None,
    queries: Sequence[int] | None = None,
    num_seen: int | None = None,
    history: Sequence[Mapping[str, float]] = (),
    facts: Mapping[str, object] | None = None,
    training: Any = None,
    num_rows: int = 6,
) -> list[pathlib.Path]:
    """Write a page, `evaluation.json` and pictures of rankings into a folder.

    Args:
        folder: made if it does not exist.
        image_set: the N images that were evaluated.
        snapshot: their embeddings and result, from `RetrievalEvaluation`.
        before: those of the untrained model, to be drawn above.
        results: results by name to compare, that of `snapshot` last; by default it
            alone, as `"model"`.
        queries: the images that query, if the others are the database.
        num_seen: how many of the classes that have a query were trained on; None: it
            is not known, and not said.
        history: the logs of the epochs of the training, if they are known: of `loss`,
            `val_map` and `val_recall_at_1` the page draws those that are there.
        facts: what the page says of the evaluation: the model, the data, the command.
        training: the settings of the training, a dataclass, if they are known.
        num_rows: queries in each picture.

    Returns:
        The files written: `index.html`, which opens without a server and shows all of
        it; `evaluation.json`, the figures; `rankings.png` (queries of as many classes
        as possible), `worst_queries.png` and `best_queries.png`.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from keras_aploss import ImageSet, evaluate_embeddings
    >>> from keras_aploss.evaluation import Snapshot
    >>> from keras_aploss import write_evaluation
    >>> labels = np.array([0, 0, 1, 1])
    >>> birds = ImageSet(np.zeros((4, 32, 32, 3), "uint8"), labels, ["crow", "jay"])
    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    >>> snapshot = Snapshot(0, embeddings, evaluate_embeddings(embeddings, labels))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_evaluation(folder, birds, snapshot)
    >>> sorted(path.name for path in written)[:3]
    ['best_queries.png', 'evaluation.json', 'index.html']
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"model": snapshot.result} if results is None else results
    precision = snapshot.result.average_precision
    classes = _class_rows(precision, image_set)
    figures = folder / "evaluation.json"
    with replaced(figures) as file:
        file.write(_as_json(results, precision, classes, num_seen))

    shown = choose_queries(image_set.labels, num_rows, queries)
    worst = _first_queries(precision, image_set.labels)
    best = _first_queries(-precision, image_set.labels)
    chosen = {
        "rankings": ("Queries of many classes", shown),
        "worst_queries": ("The worst queries", worst[:num_rows]),
        "best_queries": ("The best queries", best[:num_rows]),
    }
    written, examples = [folder / "index.html", figures], []
    for name, (title, numbers) in chosen.items():
        some = _example_rankings(title, numbers, image_set, snapshot, before, queries)
        *earlier, rankings = some.rows.values()
        picture = draw_rankings(
            rankings,
            before=earlier[0] if earlier else None,
            title=f"{title}, mAP {snapshot.result.metrics['map']:.3f}",
        )
        picture.save(folder / f"{name}.png")
        written.append(folder / f"{name}.png")
        examples.append(some)
    write_page(
        written[0], image_set, results, classes, examples,
        queries=queries, num_seen=num_seen, history=history,
        facts={**(facts or {}), "Versions": _versions(), "Written": _now()},
        training={} if training is None else dataclasses.asdict(training),
    )  # fmt: skip
    return written


def _class_rows(precision, image_set):
    """The classes that have a query, by descending mAP."""
    labels, values, counts = map_per_class(precision, image_set.labels)
    rows = [
        ClassRow(class_name(label, image_set.class_names), value, count)
        for label, value, count in zip(
            labels.tolist(), values.tolist(), counts.tolist(), strict=True
        )
    ]
    return sorted(rows, key=lambda row: -row.map)


def _first_queries(values, labels):
    """The queries in ascending order of their values; of equal ones, many classes."""
    # Most queries of a good model have an AP of 1: no class may fill the page.
    queries, seen, turns = np.flatnonzero(~np.isnan(values)), collections.Counter(), []
    for query in queries.tolist():
        alike = labels[query], values[query]
        turns.append(seen[alike])
        seen[alike] += 1
    return queries[np.lexsort((turns, values[queries]))]


def _example_rankings(title, chosen, image_set, snapshot, before, queries):
    """The rankings of some queries, before the training and after it."""
    database = None
    if queries is not None:
        database = np.setdiff1d(np.arange(len(image_set.labels)), queries)
    snapshots = {"": snapshot}
    if before is not None:
        snapshots = {"before": before, "after": snapshot}
    rows = {
        name: rank_queries(
            image_set.images, image_set.labels, shot.embeddings, chosen,
            average_precision=shot.result.average_precision,
            class_names=image_set.class_names, database=database, num_results=8,
        )
        for name, shot in snapshots.items()
    }  # fmt: skip
    return ExampleRankings(title, chosen.tolist(), rows)


def _as_json(results, precision, classes, num_seen):
    figures = {
        "num_images": len(precision),
        "num_queries": int(np.isfinite(precision).sum()),
        "num_classes": len(classes),
        "num_classes_seen_in_training": num_seen,
        "metrics": {name: dict(result.metrics) for name, result in results.items()},
        "average_precision": precision.tolist(),
        "precision_at_recall": {
            name: result.precision_at_recall.tolist()
            for name, result in results.items()
        },
        "classes": [row._asdict() for row in classes],
    }
    return json.dumps(_without_nan(figures), indent=1) + "\n"


def _versions():
    backend = keras.backend.backend()
    versions = {
        "keras_aploss": __version__,
        "Keras": keras.version(),
        backend: importlib.import_module(backend).__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _now():
    return datetime.datetime.now().astimezone()


def _without_nan(value):
    """JSON has no NaN: what has no value is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
