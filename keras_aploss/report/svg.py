"""Charts of a report as SVG, which stays sharp and takes the colours of its page.

`charts` draws pixels with Pillow, for TensorBoard and for files. A page is read on
phones and large screens, in light and dark, and printed: here the page's style sheet
colours the parts by their classes, and lines differ by their dashes, too.

Dimension key: L levels, M bins.
"""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np

from keras_aploss.report.charts import nice_ticks
from keras_aploss.report.markup import element

# One for each line of a chart: the first is the one that the chart is about.
DASHES = ("", "7 4", "2 4", "9 3 2 3")

_WIDTH, _HEIGHT = 420, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 410, 12, 246


def _at(x: float, y: float, highest: float) -> tuple[float, float]:
    """Where the point (x, y) of [0, 1] x [0, highest] lies on the chart."""
    across = _LEFT + x * (_RIGHT - _LEFT)
    return round(across, 2), round(_BOTTOM - y / highest * (_BOTTOM - _TOP), 2)


def _chart(
    label: str, x_label: str, y_label: str, ticks: Sequence[float], highest: float,
    *parts: ElementTree.Element,
) -> ElementTree.Element:  # fmt: skip
    """A chart with the axis of `x` from 0 to 1 and that of `y` from 0 to `highest`."""
    middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    scales = []
    for value in ticks:
        _, y = _at(0, value, highest)
        scales += [
            element("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="grid"),
            element("text", f"{value:,g}", x=_LEFT - 8, y=y + 4, class_="end"),
        ]
    for value in nice_ticks(0.0, 1.0, most=5):
        x, _ = _at(value, 0, highest)
        scales += [
            element("line", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 5, class_="axis"),
            element("text", f"{value:g}", x=x, y=_BOTTOM + 19, class_="middle"),
        ]
    turned = {"transform": f"rotate(-90 13 {middle_y})"}
    return element(
        "svg",
        *scales,
        *parts,
        element("line", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM, class_="axis"),
        element("text", x_label, x=middle_x, y=_HEIGHT - 6, class_="middle"),
        element("text", y_label, x=13, y=middle_y, class_="middle", **turned),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
        class_="chart",
    )


def line_chart(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    label: str,
    x_label: str,
    y_label: str,
) -> ElementTree.Element:
    """Draw curves whose values, as those of `x`, lie between 0 and 1.

    Args:
        x: L positions, ascending.
        curves: name -> L values. The first lies above the others.
        label: what the chart shows, for those who do not see it.
        x_label: What the horizontal axis shows.
        y_label: What the vertical axis shows.
    """
    lines = []
    for index, (name, values) in enumerate(curves.items()):
        points = [_at(*point, 1.0) for point in zip(x, values, strict=True)]
        line = element(
            "polyline",
            element("title", name),
            points=" ".join(f"{across:g},{down:g}" for across, down in points),
            stroke_dasharray=DASHES[index % len(DASHES)] or None,
            class_=f"curve curve-{index % len(DASHES)}",
        )
        lines.insert(0, line)
    return _chart(label, x_label, y_label, nice_ticks(0, 1, most=5), 1.0, *lines)


def line_sample(index: int) -> ElementTree.Element:
    """A piece of the line of a curve, for the legend."""
    return element(
        "svg",
        element(
            "line",
            x1=1,
            x2=33,
            y1=6,
            y2=6,
            stroke_dasharray=DASHES[index % len(DASHES)] or None,
            class_=f"curve curve-{index % len(DASHES)}",
        ),
        viewBox="0 0 34 12",
        aria_hidden="true",
        class_="sample",
    )


def histogram_chart(
    values: Sequence[float],
    *,
    num_bins: int = 20,
    label: str,
    x_label: str,
    y_label: str,
    unit: str,
) -> ElementTree.Element:
    """Draw how values between 0 and 1 spread over M bins.

    Args:
        values: The values.
        num_bins: M.
        label: what the chart shows, for those who do not see it.
        x_label: What the horizontal axis shows.
        y_label: What the vertical axis shows.
        unit: what is counted, for the text that a bar shows under the pointer.
    """
    counts, edges = np.histogram(values, num_bins, (0.0, 1.0))
    highest = max(1.0, counts.max() * 1.05)
    bars = []
    for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
        if count:
            left, top = _at(low, count, highest)
            right, bottom = _at(high, 0, highest)
            bar = element(
                "rect",
                element("title", f"{low:.2f} to {high:.2f}: {count:,} {unit}"),
                x=left + 0.75,
                y=top,
                width=round(right - left - 1.5, 2),
                height=round(bottom - top, 2),
                class_="bar",
            )
            bars.append(bar)
    ticks = [tick for tick in nice_ticks(0, highest, most=5) if tick == int(tick)]
    return _chart(label, x_label, y_label, ticks, highest, *bars)


def bar(value: float) -> ElementTree.Element:
    """A horizontal bar for a value between 0 and 1, as wide as its place allows.

    The number stands beside it, so it says nothing to those who do not see it.
    """
    return element(
        "svg",
        element("rect", width=100, height=10, class_="rail"),
        element("rect", width=round(100 * value, 2), height=10, class_="bar"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="level",
    )
