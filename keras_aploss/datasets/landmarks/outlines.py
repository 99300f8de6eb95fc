"""Flat shapes, and the canvas that paints them.

The problem: a building has some hundred parts, of every size. Each part here is an
outline in the unit square, stretched over a box, so that a roof, a window and a cloud
take one line of code each, at any resolution.

Lengths are fractions of the picture; x grows to the right and y downwards, as in
Pillow; inside an outline v grows upwards. Colours are RGB tuples.
"""

import math

import numpy as np
from PIL import ImageDraw

_ARC = [(0.5 - 0.5 * math.cos(t), math.sin(t)) for t in np.linspace(0, math.pi, 11)]


def _mirror(half):
    """A symmetric outline, from its left half."""
    return [*half, *((1 - u, v) for u, v in reversed(half))]


def _staircase(count):
    """The left half of a stepped gable of `count` steps."""
    steps = [(0.5 * i / (count - 0.3), (i + 1) / count) for i in range(count)]
    return [point for u, v in steps for point in ((u, v - 1 / count), (u, v))]


def _notches(count):
    """The upper edge of a battlement of `count` merlons."""
    starts = [i / (count - 0.5) for i in range(count)]
    wide = 0.5 / (count - 0.5)
    tops = [((u, 0.5), (u, 1), (u + wide, 1), (u + wide, 0.5)) for u in starts]
    return [point for top in tops for point in top]


def _teeth(count, lean):
    """The upper edge of `count` peaks, each at the fraction `lean` of its width."""
    pairs = [(((i + lean) / count, 1), ((i + 1) / count, 0.15)) for i in range(count)]
    return [point for pair in pairs for point in pair]


OUTLINES = {
    "box": _mirror([(0, 0), (0, 1)]),
    "gable": _mirror([(0, 0), (0.5, 1)]),
    "hip": _mirror([(0, 0), (0.24, 1)]),
    "mansard": _mirror([(0, 0), (0.05, 0.5), (0.16, 1)]),
    "dome": _ARC,
    "onion": _mirror([(0.2, 0), (0, 0.25), (0.12, 0.5), (0.4, 0.7), (0.5, 1)]),
    "bell": _mirror([(0, 0), (0.14, 0.1), (0.3, 0.4), (0.36, 0.8), (0.5, 1)]),
    "spire": _mirror([(0, 0), (0.4, 0.25), (0.5, 1)]),
    "steps": _mirror(_staircase(4)),
    "battlement": [(0, 0), *_notches(5), (1, 0)],
    "sawtooth": [(0, 0), *_teeth(3, 0), (1, 0)],
    "gables": [(0, 0), *_teeth(3, 0.5), (1, 0)],
    "arch": [(0, 0), *((u, 0.65 + 0.35 * v) for u, v in _ARC), (1, 0)],
    "gothic": _mirror([(0, 0), (0, 0.55), (0.18, 0.82), (0.5, 1)]),
    "disc": [(u, 0.5 + 0.5 * v) for u, v in _ARC]
    + [(u, 0.5 - 0.5 * v) for u, v in reversed(_ARC)],
}


def _scale(colour, red_gain, green_gain, blue_gain):
    red, green, blue = colour
    return (
        min(255, int(red * red_gain)),
        min(255, int(green * green_gain)),
        min(255, int(blue * blue_gain)),
    )


def shade(colour, factor):
    """A darker (`factor` below 1) or lighter colour."""
    return _scale(colour, factor, factor, factor)


def mix(colour, other, amount):
    """A colour between `colour` (`amount` 0) and `other` (1)."""
    return tuple(int(c + (o - c) * amount) for c, o in zip(colour, other, strict=True))


def jitter(rng, colour, amount):
    """A random colour around `colour`, with standard deviation `amount`."""
    noise = rng.normal(0, amount, 3)
    return tuple(
        min(255, max(0, int(c + n))) for c, n in zip(colour, noise, strict=True)
    )


class Canvas:
    """Paint outlines on a square image.

    Args:
        image: the image, changed in place.
        light: RGB gains of the light that falls on everything painted here.

    Example:
    >>> from PIL import Image
    >>> image = Image.new("RGB", (8, 8))
    >>> Canvas(image, light=(1.0, 1.0, 0.5)).stamp("box", 0, 1, 1, 1, (200, 80, 80))
    >>> image.getpixel((4, 4))
    (200, 80, 40)
    """

    def __init__(self, image, light=(1.0, 1.0, 1.0)):
        self._draw = ImageDraw.Draw(image)
        self._size = image.size[0]
        self._light = light

    def polygon(self, points, colour):
        """Paint a polygon given by its points (x, y)."""
        size = self._size
        self._draw.polygon([(x * size, y * size) for x, y in points], self._ink(colour))

    def stamp(self, outline, left, bottom, width, height, colour):
        """Paint an outline stretched over the box that stands on `bottom`."""
        size = self._size
        x, y, width, height = left * size, bottom * size, width * size, height * size
        points = [(x + u * width, y - v * height) for u, v in OUTLINES[outline]]
        self._draw.polygon(points, self._ink(colour))

    def _ink(self, colour):
        return _scale(colour, *self._light)
