"""The page of an evaluation: what its templates show, section by section.

One file that opens from the disk: no script, nothing from the net, pictures inside. Its
policy says so to the browser as well. Numbers are rounded for reading; the attribute
`value` of each holds all digits, those of `evaluation.json`.

A section is a title, a template of `templates/` and the data that it shows.

Dimension key: N images, C classes, L levels of recall, E epochs.
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.evaluation import RetrievalResult
from keras_aploss.report import filters
from keras_aploss.report.charts import epoch_chart, histogram_chart, line_chart
from keras_aploss.report.example_rankings import ExampleRankings, class_name
from keras_aploss.report.rankings import Ranking

# With more classes than twice as many, the page shows so many at either end.
NUM_CLASSES = 20
MOST_ROWS = 20_000  # of a table: more make browsers slow


class ClassRow(NamedTuple):
    """A class with its name, its mAP and the number of its queries."""

    name: str
    map: float
    num_queries: int


class Section(NamedTuple):
    """A part of the page: a template and what it shows."""

    title: str
    template: str
    data: Any

    @property
    def id(self) -> str:
        """The name that a link leads to."""
        return self.title.lower().replace(" ", "-")


def metric_name(key: str) -> str:
    """Write the name of a metric as papers do.

    >>> [metric_name(key) for key in ("map", "map_at_r", "map_at_5", "recall_at_1")]
    ['mAP', 'MAP@R', 'mAP@5', 'recall@1']
    """
    if key == "map_at_r":
        return "MAP@R"
    name, _, k = key.partition("_at_")
    name = {"map": "mAP", "mp": "mP"}.get(name, name)
    return f"{name}@{k}" if k else name


def describe_classes(num_classes: int, num_seen: int | None) -> str:
    """Count classes, and say how many of them were trained on, if it is known.

    >>> describe_classes(50, 0), describe_classes(50, 3), describe_classes(1, None)
    ('50 classes never seen in training', '50 classes, 3 of them seen in training',
     '1 class')
    """
    noun = "class" if num_classes == 1 else "classes"
    if num_seen is None:
        seen = ""
    elif num_seen == 0:
        seen = " never seen in training"
    elif num_seen == num_classes:
        seen = ", all of them seen in training"
    else:
        seen = f", {num_seen:,} of them seen in training"
    return f"{num_classes:,} {noun}{seen}"


def environment() -> jinja2.Environment:
    """The templates, in which every text is made visible and escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_aploss.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=filters.visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "breakable": filters.breakable,
        "fact": filters.fact,
        "number": filters.number,
    }
    return found


def write_page(
    path: pathlib.Path,
    image_set: ImageSet,
    results: Mapping[str, RetrievalResult],
    classes: Sequence[ClassRow],
    examples: Iterable[ExampleRankings],
    *,
    queries: Sequence[int] | None,
    num_seen: int | None = None,
    history: Sequence[Mapping[str, float]],
    facts: Mapping[str, object],
    training: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        path: the file.
        image_set: the N images that were evaluated.
        results: exact results by name, that of the model last.
        classes: the classes that have a query, by descending mAP.
        examples: the queries to show.
        queries: numbers of the images that query, if the others are the database.
        num_seen: how many of the classes were trained on, if it is known.
        history: the logs of the E epochs of the training, if they are known.
        facts: what was evaluated, and how.
        training: the settings of the training, if they are known.
    """
    sections = [
        Section("Metrics", "metrics.html", _metrics(results)),
        Section("Precision and recall", "curves.html", _precision_recall(results)),
    ]
    if history:
        sections.append(Section("Training", "curves.html", _training(history)))
    sections.append(Section("Classes", "classes.html", _classes(classes)))
    for some in examples:
        rankings = list(_examples(some, image_set))
        sections.append(Section(some.title, "rankings.html", rankings))
    settings = {"facts": facts, "training": training}
    sections.append(Section("Settings", "settings.html", settings))
    if image_set.skipped:
        left_out = {
            "count": len(image_set.skipped),
            "rows": image_set.skipped[:MOST_ROWS],
        }
        sections.append(Section("Left out", "left_out.html", left_out))
    page = environment().get_template("page.html")
    html = page.render(
        sections=sections,
        num_queries=list(results.values())[-1].num_queries,
        classes=describe_classes(len(classes), num_seen),
        database=_database(len(image_set.labels), queries),
    )
    path.write_text(html + "\n", encoding="utf-8")


def _database(num_images: int, queries: Sequence[int] | None) -> str:
    if queries is None:
        return f"the {num_images - 1:,} other images"
    return f"the {num_images - len(queries):,} images of the database"


def _metrics(results: Mapping[str, RetrievalResult]) -> dict[str, Any]:
    keys = list(list(results.values())[-1].metrics)
    headline = [key for key in keys if key == "map" or key.startswith("recall_at_")]
    headline += [key for key in keys if key == "map_at_r"]

    def rows(keys):
        return [
            (metric_name(key), [result.metrics[key] for result in results.values()])
            for key in keys
        ]

    return {"names": list(results), "headline": rows(headline), "rows": rows(keys)}


def _precision_recall(results: Mapping[str, RetrievalResult]) -> dict[str, Any]:
    # The curve that matters is the last one; a chart begins with it.
    curves = {name: results[name].precision_at_recall for name in reversed(results)}
    means = {name: results[name].metrics["map"] for name in curves}
    levels = np.linspace(0, 1, len(next(iter(curves.values()))))  # (L,)
    said = ", ".join(f"{name}: mAP {mean:.3f}" for name, mean in means.items())
    chart = line_chart(
        levels, curves, x_label="recall", y_label="precision",
        label=f"Precision against recall. {said}. The numbers follow below.",
    )  # fmt: skip
    return {
        "note": "To find this fraction of the relevant images, how much of the list "
        "down to there is relevant? For each query the best precision at this recall "
        "or a higher one, and of these the mean.",
        "chart": chart,
        "legend": {name: ("mAP ", mean) for name, mean in means.items()},
        "summary": "Numbers of the curve",
        "table_label": "Precision at levels of recall",
        "rows": [
            (f"{levels[place]:.1f}", [values[place] for values in curves.values()])
            for place in range(0, len(levels), (len(levels) - 1) // 10)
        ],
    }


def _training(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    names = {
        "loss": "loss",
        "val_map": metric_name("map"),
        "val_recall_at_1": metric_name("recall_at_1"),
    }
    curves = {
        name: np.array([row.get(key, np.nan) for row in history], "float64")  # (E,)
        for key, name in names.items()
        if any(key in row for row in history)
    }
    last = {name: _last(values) for name, values in curves.items()}
    said = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    return {
        "note": "After each epoch: the loss, the mean over its batches, and exact "
        "metrics of the images of this page.",
        "chart": epoch_chart(
            curves, y_label="loss and metrics",
            label=f"Training of {len(history):,} epochs. At its end: {said}. The "
            "numbers follow below.",
        ),
        "legend": {name: ("at the end ", value) for name, value in last.items()},
        "summary": "Numbers of the epochs",
        "table_label": "Loss and metrics after each epoch",
        "rows": [
            (str(epoch), values)
            for epoch, values in enumerate(zip(*curves.values(), strict=True), 1)
        ][:MOST_ROWS],
    }  # fmt: skip


def _last(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")


def _classes(classes: Sequence[ClassRow]) -> dict[str, Any]:
    values = np.array([row.map for row in classes])  # (C,)
    median, count = np.median(values), len(classes)
    data = {"mean": values.mean(), "median": median, "chart": None}
    data |= {"worst_first": classes[::-1], "best_first": classes}
    if count <= 2 * NUM_CLASSES:
        return data
    chart = histogram_chart(
        values, x_label="mAP of a class", y_label="classes",
        label=f"How the mAP of {count:,} classes is spread: median {median:.3f}, "
        f"lowest {values[-1]:.3f}, highest {values[0]:.3f}.",
    )  # fmt: skip
    shown = classes[::-1][:MOST_ROWS]
    title = f"All {count:,} classes"
    if len(shown) < count:
        title = f"The {len(shown):,} worst of {count:,} classes"
    rows = [(row.name, [row.map, f"{row.num_queries:,}"]) for row in shown]
    return data | {
        "chart": chart, "num_shown": NUM_CLASSES, "title": title, "rows": rows
    }  # fmt: skip


def _examples(
    examples: ExampleRankings, image_set: ImageSet
) -> Iterator[dict[str, Any]]:
    """A query with its image, and its results by each of the models."""
    for place, query in enumerate(examples.queries):
        rankings = {name: row[place] for name, row in examples.rows.items()}
        ranking, path = next(iter(rankings.values())), _path_of(image_set, query)
        yield {
            "name": ranking.name,
            "source": filters.image_source(ranking.query),
            "path": path,
            "file": None if path is None else os.path.basename(path),
            "rows": [
                {
                    "name": name,
                    "average_precision": ranking.average_precision,
                    "results": list(_results(ranking, image_set)),
                }
                for name, ranking in rankings.items()
            ],
        }


def _results(ranking: Ranking, image_set: ImageSet) -> Iterator[dict[str, Any]]:
    for index, image, relevant, similarity in zip(
        ranking.indices, ranking.results, ranking.relevant, ranking.similarities,
        strict=True,
    ):  # fmt: skip
        label = image_set.labels[index]
        yield {
            "source": filters.image_source(image),
            "relevant": bool(relevant),
            "similarity": similarity,
            "name": "distractor"
            if label < 0
            else class_name(label, image_set.class_names),
            "path": _path_of(image_set, index),
        }


def _path_of(image_set: ImageSet, index: int) -> str | None:
    """The path of an image, if it comes from a file."""
    paths = getattr(image_set.images, "paths", None)
    return None if paths is None else paths[index]
