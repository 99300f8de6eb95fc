"""The page of an evaluation: figures, curve, classes, rankings and settings.

One file that opens from the disk: no script, nothing from the net, pictures inside. Its
policy says so to the browser as well. Numbers are rounded for reading; the attribute
`value` of each holds all digits, those of `evaluation.json`.

Dimension key: N images, C classes.
"""

import datetime
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.evaluation import RetrievalResult
from keras_aploss.report.galleries import Gallery, show_gallery
from keras_aploss.report.markup import (
    breakable,
    details,
    element,
    number,
    table,
    to_html,
)
from keras_aploss.report.style import STYLE
from keras_aploss.report.svg import bar, histogram_chart, line_chart, line_sample

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# With more classes than twice as many, the page shows so many at either end.
NUM_CLASSES = 20
MOST_ROWS = 20_000  # of a table: more make browsers slow
MEANINGS = {
    "mAP": "The mean of the average precision (AP) of all queries. AP is the mean, "
    "over the relevant images of a query, of the precision of the list down to each: "
    "1 if all of them come first.",
    "recall@k": "The share of queries with a relevant image among the first k results.",
    "precision@k": "The share of relevant images among the first k results.",
    "mP@k": "The same, over the ranks down to the last relevant image, if it comes "
    "before rank k.",
    "mAP@k": "The mean AP of the first k results.",
    "MAP@R": "The mean AP of the first R results of each query that has R relevant "
    "images: wrong images among them count, and nothing behind them does.",
}
Element = ElementTree.Element


class ClassRow(NamedTuple):
    """A class with its name, its mAP and the number of its queries."""

    name: str
    map: float
    num_queries: int


def metric_name(key: str) -> str:
    """How a metric is written.

    >>> [metric_name(key) for key in ("map", "map_at_r", "map_at_5", "recall_at_1")]
    ['mAP', 'MAP@R', 'mAP@5', 'recall@1']
    """
    if key == "map_at_r":
        return "MAP@R"
    name, _, k = key.partition("_at_")
    name = {"map": "mAP", "mp": "mP"}.get(name, name)
    return f"{name}@{k}" if k else name


def write_page(
    path: pathlib.Path,
    image_set: ImageSet,
    results: Mapping[str, RetrievalResult],
    classes: Sequence[ClassRow],
    galleries: Iterable[Gallery],
    *,
    queries: Sequence[int] | None,
    facts: Mapping[str, object],
    training: Mapping[str, object],
) -> None:
    """Write the page.

    Args:
        path: the file.
        image_set: the N images that were evaluated.
        results: exact results by name, that of the model last.
        classes: the classes that have a query, by descending mAP.
        galleries: the queries to show.
        queries: numbers of the images that query, if the others are the database.
        facts: what was evaluated, and how.
        training: the settings of the training, if they are known.
    """
    style = element("style")
    style.text = STYLE
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Search report"),
        style,
    )
    sections = {
        "Metrics": _metrics(results),
        "Precision and recall": _curve(results),
        "Classes": _classes(classes),
        **{gallery.title: show_gallery(gallery, image_set) for gallery in galleries},
        "Settings": _settings(facts, training),
    }
    if image_set.skipped:
        sections["Left out"] = _left_out(image_set.skipped)
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    links = (element("a", title, href=f"#{ids[title]}") for title in sections)
    header = element(
        "header",
        element("h1", "Search report"),
        element("p", _summary(image_set, results, len(classes), queries)),
        element("nav", *links, aria_label="Sections"),
    )
    parts = (
        element("section", element("h2", title), *content, id=ids[title])
        for title, content in sections.items()
    )
    body = element("body", element("main", header, *parts))
    page = "<!DOCTYPE html>\n" + to_html(element("html", head, body, lang="en")) + "\n"
    path.write_text(page, encoding="utf-8")


def _summary(image_set, results, num_classes, queries):
    num_queries = list(results.values())[-1].num_queries
    num_images = len(image_set.labels)
    if queries is None:
        others = f"the {num_images - 1:,} other images"
    else:
        others = f"the {num_images - len(queries):,} images of the database"
    return f"{num_queries:,} queries of {num_classes:,} classes. Each ranks {others}."


def _metrics(results):
    keys = list(list(results.values())[-1].metrics)
    shown = [key for key in keys if key == "map" or key.startswith("recall_at_")]
    shown += [key for key in keys if key == "map_at_r"]

    def rows(keys):
        for key in keys:
            values = (number(result.metrics[key]) for result in results.values())
            yield metric_name(key), *values

    # A column for each result, since a phone has no room for one for each metric.
    headline = table(["metric", *results], rows(shown), "Metrics", "metrics")
    for row in headline.iterfind(".//tbody/tr"):
        row[-1].set("class", "number headline")
    terms = []
    for term, meaning in MEANINGS.items():
        terms += [element("dt", term), element("dd", meaning)]
    yield headline
    yield details("All metrics", table(["metric", *results], rows(keys), "All metrics"))
    yield details("What they mean", element("dl", *terms))


def _curve(results):
    # The curve that matters is the last one; a chart begins with it.
    curves = {name: results[name].precision_at_recall for name in reversed(results)}
    levels = np.linspace(0, 1, len(next(iter(curves.values()))))
    means = ", ".join(
        f"{name}: mAP {results[name].metrics['map']:.3f}" for name in curves
    )
    chart = line_chart(
        levels, curves, x_label="recall", y_label="precision",
        label=f"Precision against recall. {means}. The numbers follow below.",
    )  # fmt: skip
    legend = element("ul", class_="legend")
    for index, name in enumerate(curves):
        mean = element("span", "mAP ", number(results[name].metrics["map"]))
        mean.set("class", "soft")
        sample = line_sample(index)
        legend.append(element("li", sample, breakable(name), mean))
    step = (len(levels) - 1) // 10
    rows = [
        (
            f"{levels[place]:.1f}",
            *(number(values[place]) for values in curves.values()),
        )
        for place in range(0, len(levels), step)
    ]
    note = (
        "To find this share of the relevant images, how much of the list down to there "
        "is relevant? For each query the best precision at this recall or a higher "
        "one, and of these the mean."
    )
    numbers = table(["recall", *curves], rows, "Precision at levels of recall")
    yield element("p", note, class_="soft")
    yield element("div", chart, element("div", legend), class_="pair")
    yield details("Numbers of the curve", numbers)


def _class_rows(classes: Iterable[ClassRow]):
    for row in classes:
        yield row.name, bar(row.map), number(row.map), f"{row.num_queries:,}"


def _class_bars(classes: Iterable[ClassRow], title: str) -> Element:
    headings = ["class", "", "mAP", "queries"]
    bars = table(headings, _class_rows(classes), title, "bars")
    # The bars take the room that the numbers leave.
    for row in bars.iter("tr"):
        row[1].set("class", "wide")
    return element("div", element("h3", title), bars)


def _classes(classes: Sequence[ClassRow]):
    values = np.array([row.map for row in classes])
    yield element(
        "p",
        "The mean AP of the queries of each class: ", number(values.mean()),
        " over the classes, median ", number(np.median(values)), ".",
        class_="soft",
    )  # fmt: skip
    if len(classes) <= 2 * NUM_CLASSES:
        yield _class_bars(classes[::-1], "All classes, the worst first")
        return
    worst = classes[: -NUM_CLASSES - 1 : -1]
    yield histogram_chart(
        values, x_label="mAP of a class", y_label="classes", unit="classes",
        label=f"How the mAP of {len(classes):,} classes is spread: median "
        f"{np.median(values):.3f}, lowest {values[-1]:.3f}, highest {values[0]:.3f}.",
    )  # fmt: skip
    yield element(
        "div",
        _class_bars(worst, f"The {NUM_CLASSES} worst classes"),
        _class_bars(classes[:NUM_CLASSES], f"The {NUM_CLASSES} best classes"),
        class_="pair",
    )
    shown = classes[::-1][:MOST_ROWS]
    rows = ((row.name, number(row.map), f"{row.num_queries:,}") for row in shown)
    title = f"All {len(classes):,} classes"
    if len(shown) < len(classes):
        title = f"The {len(shown):,} worst of {len(classes):,} classes"
    everything = table(["class", "mAP", "queries"], rows, title)
    yield details(f"{title}, the worst first", everything)


def _facts(rows: Mapping[str, object]) -> Element:
    cells = (
        element("tr", element("th", name, scope="row"), element("td", _value(value)))
        for name, value in rows.items()
    )
    return element("table", element("tbody", *cells), class_="facts")


def _value(value: object) -> Element:
    if isinstance(value, datetime.datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
        return element("time", text, datetime=value.isoformat())
    return breakable(value if value != "" else "–")


def _settings(facts, training):
    yield _facts(facts)
    if training:
        yield details("Settings of the training", _facts(training))


def _left_out(skipped):
    shown = skipped[:MOST_ROWS]
    count = f"{len(skipped):,} files or classes were left out."
    cells = (
        element("tr", *(element("td", breakable(text)) for text in row))
        for row in shown
    )
    head = (element("th", text, scope="col") for text in ("path", "reason"))
    files = element(
        "table", element("thead", element("tr", *head)), element("tbody", *cells)
    )
    yield element("p", count)
    yield details("Which, and why", files)
