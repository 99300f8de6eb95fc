"""Charts of the page, by the places of their lines and bars."""

import numpy as np
import pytest
from html_page import parse
from hypothesis import given, strategies as st

from keras_aploss.report.charts import (
    epoch_chart,
    histogram_chart,
    line_chart,
    nice_ticks,
)
from keras_aploss.report.page import environment

NAMES = {"label": "what it shows", "y_label": "y"}
SVG = environment().get_template("charts.svg").module


def read(chart):
    return parse(SVG.draw(chart))


def places(curve):
    """The points of each of the pieces of a curve."""
    lines = [line.attributes["points"].split() for line in curve.all("polyline")]
    return [np.array([point.split(",") for point in line], float) for line in lines]


def x_ticks(page):
    """The texts of the horizontal axis but for its name."""
    return [t for t in page.all("text", class_="middle") if t.text[0].isdigit()]


def scale_of(page):
    """From chart to data, by the labels of the ticks: y of a text, x of a text."""
    texts = list(page.all("text"))
    rows = [t for t in texts if t.attributes["class"] == "end"]
    columns = [
        t for t in texts if t.attributes["class"] == "middle" and t.text[0] < "A"
    ]
    grids = [float(line.attributes["y1"]) for line in page.all("line", class_="grid")]
    y = np.polyfit(grids, [float(t.text.replace(",", "")) for t in rows], 1)
    x = np.polyfit(
        [float(t.attributes["x"]) for t in columns], [float(t.text) for t in columns], 1
    )
    return x, y


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_few_even_and_inside(low, span, most):
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert len(ticks) <= most + 1
    slack = 1e-6 * (high - low) + 1e-9
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if len(ticks) > 2 and span > 1e-3 * abs(low):
        steps = np.diff(ticks)
        assert steps.max() == pytest.approx(steps.min(), rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_curves_lie_where_the_axes_say():
    x = np.linspace(0, 1, 101)
    curves = {"steep": x**2, "<b>flat": np.full(101, 0.3)}
    page = read(line_chart(x, curves, x_label="x", **NAMES))
    to_x, to_y = scale_of(page)
    lines = {line.first("title").text: line for line in page.all("g")}
    # What is drawn last lies above.
    assert list(lines) == ["<b>flat", "steep"]
    for name, values in curves.items():
        (found,) = places(lines[name])
        np.testing.assert_allclose(np.polyval(to_x, found[:, 0]), x, atol=1e-3)
        np.testing.assert_allclose(np.polyval(to_y, found[:, 1]), values, atol=1e-3)
    chart = page.first("svg")
    assert chart.attributes["role"] == "img"
    assert chart.attributes["aria-label"] == "what it shows"
    assert not list(page.all("circle"))


def test_curves_differ_without_their_colours():
    x = np.linspace(0, 1, 5)
    page = read(line_chart(x, dict.fromkeys("abc", x), x_label="x", **NAMES))
    curves = {curve.first("title").text: curve for curve in page.all("g")}
    dashes = [curve.attributes.get("stroke-dasharray") for curve in curves.values()]
    assert len(set(dashes)) == 3
    for index, name in enumerate("abc"):
        sample = parse(SVG.line_sample(index)).first("line")
        for attribute in ("class", "stroke-dasharray"):
            found = curves[name].attributes.get(attribute)
            assert sample.attributes.get(attribute) == found
    assert "stroke-dasharray" not in curves["a"].attributes  # the first one is solid
    fourth, fifth = (parse(SVG.line_sample(k)).first("line").attributes for k in (3, 4))
    assert fourth["stroke-dasharray"] not in dashes
    assert fifth == parse(SVG.line_sample(0)).first("line").attributes


def test_curves_of_epochs_have_dots_and_gaps():
    loss, recall = [0.9, 0.5, 0.4, 0.2, 0.1], [np.nan, 0.3, np.nan, 0.6, 0.7]
    page = read(epoch_chart({"loss": loss, "recall": recall}, **NAMES))
    to_x, to_y = scale_of(page)
    curves = {curve.first("title").text: curve for curve in page.all("g")}
    assert [len(piece) for piece in places(curves["recall"])] == [1, 2]
    for name, values in (("loss", loss), ("recall", recall)):
        known = np.flatnonzero(np.isfinite(values))
        found = np.concatenate(places(curves[name]))
        np.testing.assert_allclose(np.polyval(to_x, found[:, 0]), known + 1, atol=0.02)
        wanted = np.array(values)[known]
        np.testing.assert_allclose(np.polyval(to_y, found[:, 1]), wanted, atol=1e-3)
        dots = [
            [float(dot.attributes[name]) for name in ("cx", "cy")]
            for dot in curves[name].all("circle")
        ]
        np.testing.assert_allclose(dots, found, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 41, 1000])
def test_epochs_are_named_by_whole_numbers_and_many_have_no_dots(count):
    page = read(epoch_chart({"loss": np.linspace(1, 0, count)}, **NAMES))
    ticks = [int(text.text.replace(",", "")) for text in x_ticks(page)]
    assert 1 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert 1 <= ticks[0] <= ticks[-1] <= count
    assert bool(list(page.all("circle"))) == (count < 41)


@pytest.mark.parametrize(
    "values", [[0.5], [0.0, 0.0], [np.nan, np.nan], [3e-5, 1e-5], [-4, 9], [40.0, 7.5]]
)
def test_values_of_any_range_are_inside_the_chart(values):
    chart = epoch_chart({"loss": values}, **NAMES)
    page = read(chart)
    for dot in page.all("circle"):
        assert chart.left <= float(dot.attributes["cx"]) <= chart.right
        assert chart.top <= float(dot.attributes["cy"]) <= chart.bottom
    assert len(list(page.all("circle"))) == np.isfinite(values).sum()
    assert len(list(page.all("line", class_="grid"))) >= 2


@pytest.mark.parametrize("count", [1, 3, 40_000])
def test_histogram_is_that_of_numpy(count):
    values = np.random.default_rng(count).beta(5, 2, count)
    names = {"label": "what it shows", "x_label": "x", "y_label": "classes"}
    page = read(histogram_chart(values, num_bins=10, **names))
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
    page = read(histogram_chart([0.0, 1.0], x_label="x", **NAMES))
    assert len(list(page.all("rect"))) == 2


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_bar_is_as_long_as_its_value(value):
    rail, filled = parse(SVG.bar(value)).all("rect")
    widths = [float(rect.attributes["width"]) for rect in (filled, rail)]
    assert widths[0] / widths[1] == value
