"""Charts of the page: values and scales, which `templates/charts.svg` draws.

SVG stays sharp on phones, on large screens and in print, and takes the colours of its
page, light or dark. Here values are data; a template asks a chart for their places.

Dimension key: L positions, C curves, M bins.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

# Of so many positions, each has a dot: a curve of a single one would not show.
_MOST_DOTS = 40


class Curve(NamedTuple):
    """A line of a chart: its pieces between gaps, and the points that have a dot."""

    name: str
    pieces: list[list[tuple[float, float]]]
    dots: list[tuple[float, float]]


class Bar(NamedTuple):
    """A bin of a histogram: its edges, its count and the text under the pointer."""

    low: float
    high: float
    count: int
    title: str


@dataclasses.dataclass
class Chart:
    """The range of a chart in units of the data, and the scales to pixels.

    Attributes:
        label: what the chart shows, for those who do not see it.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
        x_range: the values at both ends of the horizontal axis.
        y_range: the values at both ends of the vertical axis.
        x_ticks: the values that the horizontal axis names.
        y_ticks: the values that the vertical axis names.
        curves: the C lines; the first lies above the others.
        bars: the M bars that are not empty.
    """

    label: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    curves: Sequence[Curve] = ()
    bars: Sequence[Bar] = ()

    width: ClassVar = 420
    height: ClassVar = 290
    left: ClassVar = 50
    right: ClassVar = 410
    top: ClassVar = 12
    bottom: ClassVar = 246

    def x(self, value: float) -> float:
        """The pixel of a value of the horizontal axis."""
        low, high = self.x_range
        across = (value - low) / (high - low)
        return round(self.left + across * (self.right - self.left), 2)

    def y(self, value: float) -> float:
        """The pixel of a value of the vertical axis."""
        low, high = self.y_range
        up = (value - low) / (high - low)
        return round(self.bottom - up * (self.bottom - self.top), 2)

    def points(self, piece: Sequence[tuple[float, float]]) -> str:
        """The pixels of points, as SVG writes them."""
        return " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in piece)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose at most `most` + 1 round numbers that lie between two numbers.

    >>> nice_ticks(0.0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8]
    >>> nice_ticks(1, 40)
    [10.0, 20.0, 30.0, 40.0]
    """
    rough = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 2.5, 5, 10)
    # The slack keeps a step that is exact up to rounding.
    step = next(f for f in factors if f * magnitude >= rough * (1 - 1e-9)) * magnitude
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _whole(ticks: Sequence[float]) -> list[float]:
    return [tick for tick in ticks if tick == int(tick)]


def line_chart(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    label: str,
    x_label: str,
    y_label: str,
) -> Chart:
    """Lay out curves whose values, as those of `x`, lie between 0 and 1.

    Args:
        x: L positions, ascending.
        curves: name -> L values. The first lies above the others.
        label: what the chart shows, for those who do not see it.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
    """
    unit, ticks = (0.0, 1.0), nice_ticks(0, 1, most=5)
    lines = [_curve(name, x, values) for name, values in curves.items()]
    return Chart(label, x_label, y_label, unit, unit, ticks, ticks, lines)


def epoch_chart(
    curves: Mapping[str, Sequence[float]], *, label: str, y_label: str
) -> Chart:
    """Lay out what has a value after each epoch; NaN, not measured, leaves a gap.

    Args:
        curves: name -> L values, of the epochs 1, 2, ..., L.
        label: what the chart shows, for those who do not see it.
        y_label: what the vertical axis shows.
    """
    count = len(next(iter(curves.values())))
    epochs = np.arange(1, count + 1)
    x_range = (1, count) if count > 1 else (0.5, 1.5)
    y_range = _value_range(np.concatenate([*curves.values()]))
    lines = [_curve(name, epochs, values) for name, values in curves.items()]
    return Chart(
        label,
        "epoch",
        y_label,
        x_range,
        y_range,
        _whole(nice_ticks(1, count, most=8)) if count > 1 else [1],
        nice_ticks(*y_range, most=5),
        lines,
    )


def _value_range(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    low = min(0.0, values.min(initial=0.0))
    high = max(0.0, values.max(initial=0.0))
    if low == high:
        return 0.0, 1.0
    # Between 0 and 1, show all of it: a reader knows what 1 means.
    return (low, 1.0) if 0.4 < high <= 1 else (low, high * 1.05)


def _curve(name: str, x: Sequence[float], values: Sequence[float]) -> Curve:
    points = [(float(at), float(value)) for at, value in zip(x, values, strict=True)]
    runs = itertools.groupby(points, lambda point: math.isfinite(point[1]))
    pieces = [list(piece) for is_known, piece in runs if is_known]
    dots = [point for piece in pieces for point in piece]
    return Curve(name, pieces, dots if len(points) <= _MOST_DOTS else [])


def histogram_chart(
    values: Sequence[float],
    *,
    num_bins: int = 20,
    label: str,
    x_label: str,
    y_label: str,
) -> Chart:
    """Lay out how values between 0 and 1 spread over M bins.

    Args:
        values: the values.
        num_bins: M.
        label: what the chart shows, for those who do not see it.
        x_label: what the horizontal axis shows.
        y_label: what is counted, also for the text that a bar shows under the pointer.
    """
    counts, edges = np.histogram(values, num_bins, (0.0, 1.0))
    highest = max(1.0, float(counts.max()) * 1.05)
    bars = [
        Bar(low, high, count, f"{low:.2f} to {high:.2f}: {count:,} {y_label}")
        for count, low, high in zip(
            counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
        )
        if count
    ]
    ticks = _whole(nice_ticks(0, highest, most=5))
    x_ticks = nice_ticks(0, 1, most=5)
    unit, heights = (0.0, 1.0), (0.0, highest)
    return Chart(label, x_label, y_label, unit, heights, x_ticks, ticks, bars=bars)
