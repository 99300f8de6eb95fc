"""Queries with what they find, as a part of the page of an evaluation.

A result says by the colour and the dashes of its frame and by a sign whether it is
relevant. A wrong one says what it shows, since that is what the model confuses.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from keras_aploss.datasets import ImageSet
from keras_aploss.report.markup import breakable, element, image_source, number
from keras_aploss.report.panels import class_name
from keras_aploss.report.rankings import Ranking


class Gallery(NamedTuple):
    """Queries to show with what they find.

    Attributes:
        title: what they have in common.
        queries: their numbers among the N images.
        rows: by name, the ranking of each query.
    """

    title: str
    queries: Sequence[int]
    rows: Mapping[str, Sequence[Ranking]]


def show_gallery(
    gallery: Gallery, image_set: ImageSet
) -> Iterator[ElementTree.Element]:
    """The key to the signs, and a part for each query."""
    tick, cross = (element("span", sign, class_="mark") for sign in "✓✗")
    yield element(
        "p",
        element("span", tick, " relevant, solid frame"),
        element("span", cross, " not relevant, dashed frame", class_="wrong"),
        element("span", "The number is the similarity, 1 at most."),
        class_="key soft",
    )
    for place, query in enumerate(gallery.queries):
        rankings = {name: row[place] for name, row in gallery.rows.items()}
        yield element(
            "article",
            _query(next(iter(rankings.values())), _path_of(image_set, query)),
            element(
                "div",
                *(_row(name, ranking, image_set) for name, ranking in rankings.items()),
                class_="rows",
            ),
            class_="ranking",
        )


def _path_of(image_set: ImageSet, index: int) -> str | None:
    """The path of an image, if it comes from a file."""
    paths = getattr(image_set.images, "paths", None)
    return None if paths is None else paths[index]


def _query(ranking: Ranking, path: str | None) -> ElementTree.Element:
    source, text = image_source(ranking.query), f"Query: {ranking.name}"
    caption = element("figcaption", breakable(ranking.name, class_="class"))
    if path is not None:
        caption.append(breakable(os.path.basename(path), class_="file soft"))
    image = element("img", src=source, alt=text, title=path)
    return element("figure", image, caption, class_="query")


def _row(name: str, ranking: Ranking, image_set: ImageSet) -> ElementTree.Element:
    precision = number(ranking.average_precision)
    results = (
        _result(ranking, rank, image_set) for rank in range(len(ranking.results))
    )
    return element(
        "div",
        element("p", f"{name}: AP " if name else "AP ", precision, class_="soft"),
        element("ol", *results, class_="results"),
        class_="row",
    )


def _result(ranking: Ranking, rank: int, image_set: ImageSet) -> ElementTree.Element:
    index, relevant = ranking.indices[rank], bool(ranking.relevant[rank])
    label, path = image_set.labels[index], _path_of(image_set, index)
    name = "distractor" if label < 0 else class_name(label, image_set.class_names)
    verdict = "relevant" if relevant else "not relevant"
    image = element(
        "img",
        src=image_source(ranking.results[rank]),
        alt=f"Result {rank + 1}, {verdict}: {name}",
        title=name if path is None else f"{name}: {path}",
    )
    sign = element("span", "✓" if relevant else "✗", class_="mark", aria_hidden="true")
    caption = element("figcaption", sign, " ", number(ranking.similarities[rank], 2))
    if not relevant:
        caption.append(breakable(name, class_="name", title=name))
    figure = element("figure", image, caption)
    return element("li", figure, class_="right" if relevant else "wrong")
