"""Charts of a training run, drawn with Pillow alone.

`draw_curves` shows how loss and metrics move from epoch to epoch. `draw_histogram`
shows what the AP loss works on: how the similarities of the positive and the negative
pairs spread over its bins. The further the two hills are apart, the better the AP.

Dimensions: M is the number of bins, E the number of epochs.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from keras_aploss.report.canvas import (
    FAINT,
    GREEN,
    PALETTE,
    RED,
    SOFT,
    Canvas,
    shorten,
    text_width,
)


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


class _Axes:
    """A canvas with a title, two axes and a scale from data to pixels."""

    def __init__(
        self,
        width: int,
        height: int,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        title: str,
    ) -> None:
        self.canvas = Canvas(width, height)
        self.unit = width / 720
        unit = self.unit
        self.left, self.right = 72 * unit, width - 28 * unit
        self.top, self.bottom = (90 if title else 52) * unit, height - 58 * unit
        self.x_range, self.y_range = x_range, y_range
        line = shorten(title, 20 * unit, self.right - 24 * unit)
        self.canvas.text((24 * unit, 30 * unit), line, 20 * unit, anchor="lm")

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )

    def draw_scales(
        self, x_ticks: Sequence[float], x_label: str, y_label: str, percent: bool
    ) -> None:
        unit, canvas = self.unit, self.canvas
        for value in nice_ticks(*self.y_range):
            _, y = self.at(self.x_range[0], value)
            canvas.line([(self.left, y), (self.right, y)], FAINT, unit)
            text = f"{100 * value:g}%" if percent else f"{value:g}"
            canvas.text((self.left - 9 * unit, y), text, 13 * unit, SOFT, "rm")
        edge = self.bottom
        canvas.line([(self.left, edge), (self.right, edge)], SOFT, unit)
        for value in x_ticks:
            x, _ = self.at(value, self.y_range[0])
            canvas.line([(x, edge), (x, edge + 5 * unit)], SOFT, unit)
            canvas.text((x, edge + 16 * unit), f"{value:g}", 13 * unit, SOFT, "mm")
        middle = (self.left + self.right) / 2, canvas.height - 18 * unit
        canvas.text(middle, x_label, 13 * unit, SOFT, "mm")
        middle = 22 * unit, (self.top + self.bottom) / 2
        canvas.vertical_text(middle, y_label, 13 * unit, SOFT)

    def draw_legend(self, entries: Sequence[tuple[str, str]]) -> None:
        unit, x = self.unit, 24 * self.unit
        y = self.top - 28 * unit
        for color, text in entries:
            box = (x, y - 5 * unit, x + 14 * unit, y + 5 * unit)
            self.canvas.rectangle(box, color)
            self.canvas.text((x + 21 * unit, y), text, 13 * unit, anchor="lm")
            x += 43 * unit + text_width(text, 13 * unit)


def draw_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    title: str = "",
    x_label: str = "epoch",
    y_label: str = "",
    width: int = 720,
) -> Image.Image:
    """Draw lines over the epochs of a run; the legend tells their last values.

    Curves share one axis, so draw together what has one range: the AP loss and mAP
    both lie between 0 and 1.

    Args:
        curves: Name -> E values. A NaN leaves a gap in the line.
        x: The E positions; 1, 2, ... by default.
        title: A line of text above the chart.
        x_label: What the horizontal axis shows.
        y_label: What the vertical axis shows.
        width: Width in pixels; everything, text included, grows with it.

    Returns:
        An RGB `PIL.Image.Image`, 9 by 5.

    Example:
    >>> from keras_aploss.report import draw_curves
    >>> history = {"loss": [0.61, 0.42, 0.35], "val_map": [0.38, 0.55, 0.6]}
    >>> draw_curves(history, title="Training").size
    (720, 400)
    """
    lengths = {name: len(values) for name, values in curves.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(
            "Expected curves of one length, at least 1. Received: lengths of "
            f"curves={lengths}. Pad what was not measured with NaN."
        )
    count = next(iter(lengths.values()))
    positions = np.arange(1, count + 1) if x is None else np.asarray(x, "float64")
    if len(positions) != count:
        raise ValueError(
            "Expected one position for each value. Received: "
            f"len(x)={len(positions)}, values={count}."
        )
    table = {name: np.asarray(values, "float64") for name, values in curves.items()}
    axes = _Axes(
        width,
        round(width * 5 / 9),
        _widen(float(positions.min()), float(positions.max())),
        _value_range(np.concatenate(list(table.values()))),
        title,
    )
    ticks = nice_ticks(*axes.x_range, most=10) if count > 1 else list(positions)
    if np.array_equal(positions, np.round(positions)):
        ticks = [tick for tick in ticks if tick == round(tick)]
    axes.draw_scales(ticks, x_label, y_label, percent=False)
    entries = []
    for index, (name, values) in enumerate(table.items()):
        color = PALETTE[index % len(PALETTE)]
        _draw_curve(axes, positions, values, color)
        known = values[np.isfinite(values)]
        last = f" {known[-1]:.3g}" if len(known) else ""
        entries.append((color, name + last))
    axes.draw_legend(entries)
    return axes.canvas.finish()


def _draw_curve(
    axes: _Axes, positions: np.ndarray, values: np.ndarray, color: str
) -> None:
    pieces: list[list[tuple[float, float]]] = [[]]
    for position, value in zip(positions, values, strict=True):
        if np.isfinite(value):
            pieces[-1].append(axes.at(position, value))
        elif pieces[-1]:
            pieces.append([])
    for piece in filter(None, pieces):
        axes.canvas.line(piece, color, 2.2 * axes.unit)
        if len(positions) <= 40:
            for point in piece:
                axes.canvas.disc(point, 3.2 * axes.unit, color)


def _widen(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _value_range(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = _widen(min(0.0, float(values.min())), float(values.max()))
    # Between 0 and 1, show all of it: a reader knows what 1 means.
    return (low, 1.0) if 0.4 < high <= 1 else (low, high * 1.05)


def draw_histogram(
    centers: Sequence[float],
    positives: Sequence[float],
    negatives: Sequence[float],
    *,
    title: str = "",
    width: int = 720,
) -> Image.Image:
    """Draw how positive and negative similarities spread over the bins.

    Negative pairs are far more numerous, so each kind is drawn as a share of its own.

    Args:
        centers: The M centres of the bins, in any order, evenly spaced.
        positives: The M counts of positive pairs; soft counts are fractions.
        negatives: The M counts of negative pairs.
        title: A line of text above the chart.
        width: Width in pixels; everything, text included, grows with it.

    Returns:
        An RGB `PIL.Image.Image`, 9 by 5.

    Example:
    >>> from keras_aploss.report import draw_histogram
    >>> chart = draw_histogram([-1, -0.5, 0, 0.5, 1], [0, 0, 1, 3, 6], [2, 9, 9, 1, 0])
    >>> chart.size
    (720, 400)
    """
    order = np.argsort(centers)
    centers = np.asarray(centers, "float64")[order]  # (M,)
    if not len(centers) == len(positives) == len(negatives) >= 2:
        raise ValueError(
            "Expected at least two bins and two counts for each. Received: "
            f"len(centers)={len(centers)}, len(positives)={len(positives)}, "
            f"len(negatives)={len(negatives)}."
        )
    shares = {
        "negative pairs": (RED, _share(np.asarray(negatives, "float64")[order])),
        "positive pairs": (GREEN, _share(np.asarray(positives, "float64")[order])),
    }
    step = centers[1] - centers[0]
    highest = max(share.max() for _, share in shares.values())
    axes = _Axes(
        width,
        round(width * 5 / 9),
        (centers[0] - step / 2, centers[-1] + step / 2),
        (0.0, max(highest, 0.05) * 1.08),
        title,
    )
    ticks = nice_ticks(centers[0], centers[-1], most=8)
    axes.draw_scales(ticks, "similarity", "share of the pairs", percent=True)
    for color, share in shares.values():
        _draw_bars(axes, centers, share, step, color)
    axes.draw_legend([(color, name) for name, (color, _) in shares.items()][::-1])
    return axes.canvas.finish()


def _share(counts: np.ndarray) -> np.ndarray:
    return counts / max(counts.sum(), 1e-12)


def _draw_bars(
    axes: _Axes, centers: np.ndarray, share: np.ndarray, step: float, color: str
) -> None:
    outline = []
    for center, value in zip(centers, share, strict=True):
        left, top = axes.at(center - step / 2, value)
        right, bottom = axes.at(center + step / 2, 0.0)
        axes.canvas.rectangle((left, top, right, bottom), color, opacity=0.28)
        outline += [(left, top), (right, top)]
    axes.canvas.line(outline, color, 2 * axes.unit)
