"""Charts of a page, by the places of their lines and bars."""

import numpy as np
import pytest
from html_page import parse

from keras_aploss.report.markup import to_html
from keras_aploss.report.svg import (
    DASHES,
    bar,
    histogram_chart,
    line_chart,
    line_sample,
)

NAMES = {"label": "what it shows", "x_label": "x", "y_label": "y"}


def read(node):
    return parse(to_html(node))


def places(line):
    text = line.attributes["points"]
    return np.array([point.split(",") for point in text.split()], float)


def scale_of(page):
    """From chart to data, by the labels of the ticks: y of a text, x of a text."""
    texts = list(page.all("text"))
    rows = [t for t in texts if t.attributes["class"] == "end"]
    columns = [
        t for t in texts if t.attributes["class"] == "middle" and t.text[0] in "01"
    ]
    grids = [float(line.attributes["y1"]) for line in page.all("line", class_="grid")]
    y = np.polyfit(grids, [float(t.text.replace(",", "")) for t in rows], 1)
    x = np.polyfit(
        [float(t.attributes["x"]) for t in columns], [float(t.text) for t in columns], 1
    )
    return x, y


def test_curves_lie_where_the_axes_say():
    x = np.linspace(0, 1, 101)
    curves = {"steep": x**2, "<b>flat": np.full(101, 0.3)}
    page = read(line_chart(x, curves, **NAMES))
    to_x, to_y = scale_of(page)
    lines = {line.first("title").text: line for line in page.all("polyline")}
    # What is drawn last lies above.
    assert list(lines) == ["<b>flat", "steep"]
    for name, values in curves.items():
        found = places(lines[name])
        np.testing.assert_allclose(np.polyval(to_x, found[:, 0]), x, atol=1e-3)
        np.testing.assert_allclose(np.polyval(to_y, found[:, 1]), values, atol=1e-3)
    chart = page.first("svg")
    assert chart.attributes["role"] == "img"
    assert chart.attributes["aria-label"] == "what it shows"


def test_curves_differ_without_their_colours():
    x = np.linspace(0, 1, 5)
    page = read(line_chart(x, dict.fromkeys("abc", x), **NAMES))
    dashes = [line.attributes.get("stroke-dasharray") for line in page.all("polyline")]
    assert len(set(dashes)) == 3
    assert None in dashes  # the first one is solid
    assert len(set(DASHES)) == len(DASHES)
    for index, name in enumerate("abc"):
        sample = read(line_sample(index)).first("line")
        line = next(
            line for line in page.all("polyline") if line.first("title").text == name
        )
        for attribute in ("class", "stroke-dasharray"):
            assert sample.attributes.get(attribute) == line.attributes.get(attribute)


@pytest.mark.parametrize("count", [1, 3, 500, 40_000])
def test_histogram_is_that_of_numpy(count):
    values = np.random.default_rng(count).beta(5, 2, count)
    page = read(histogram_chart(values, num_bins=10, unit="classes", **NAMES))
    to_x, to_y = scale_of(page)
    counts, edges = np.histogram(values, 10, (0, 1))
    bars = list(page.all("rect"))
    assert len(bars) == np.count_nonzero(counts)
    for rect, number, low in zip(
        bars, counts[counts > 0], edges[:-1][counts > 0], strict=True
    ):
        left, top, width, height = (
            float(rect.attributes[name]) for name in ("x", "y", "width", "height")
        )
        assert np.polyval(to_x, left) == pytest.approx(low, abs=0.01)
        assert np.polyval(to_x, left + width) == pytest.approx(low + 0.1, abs=0.01)
        assert np.polyval(to_y, top) == pytest.approx(
            number, rel=2e-3, abs=1e-3 * count
        )
        assert np.polyval(to_y, top + height) == pytest.approx(0, abs=2e-4 * count)
        wanted = f"{low:.2f} to {low + 0.1:.2f}: {number:,} classes"
        assert rect.first("title").text == wanted


def test_values_at_both_ends_are_counted():
    page = read(histogram_chart([0.0, 1.0], unit="classes", **NAMES))
    assert len(list(page.all("rect"))) == 2


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_bar_is_as_long_as_its_value(value):
    rail, filled = read(bar(value)).all("rect")
    widths = [float(rect.attributes["width"]) for rect in (filled, rail)]
    assert widths[0] / widths[1] == value
