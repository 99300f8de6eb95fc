"""An anti-aliased canvas and the colours of the pictures of rankings.

Pillow draws shapes without anti-aliasing, and hints small text so hard that its
letters lose their rhythm. `Canvas` therefore draws everything three times larger and
shrinks it once, at the end; photographs are pasted afterwards, untouched.

All coordinates are pixels of the final picture and may be fractions.
"""

import math
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# After Okabe and Ito, whose colours differ for any colour vision. Their vermilion,
# which reads as orange, is a shade redder here: it has to say "wrong".
GREEN = "#009E73"
RED = "#D1401B"
INK = "#1F2933"
SOFT = "#66727F"
FAINT = "#E3E7EB"
PAPER = "#FFFFFF"
BACKDROP = "#F1F3F5"

SUPERSAMPLING = 3


def printable(text: object) -> str:
    """Reduce a text to what Pillow's built-in font can show, plain ASCII.

    >>> printable("Crème brûlée – 城")
    'Creme brulee - ?'
    """
    text = str(text)
    for dash in "‐‑–—−":
        text = text.replace(dash, "-")
    marked = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in marked if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in bare)


def text_width(text: str, size: float) -> float:
    """Measure the width of a line of text, in pixels of the final picture."""
    large = ImageFont.load_default(size=size * SUPERSAMPLING)
    return large.getlength(printable(text)) / SUPERSAMPLING


def shorten(text: object, size: float, width: float) -> str:
    """Cut a text so that it fits a width, and mark the cut with dots.

    >>> shorten("Notre-Dame de Paris", 13, 80)
    'Notre-Dam...'
    """
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip(" -_") + "..."


class Canvas:
    """A sheet of paper to draw on; `finish()` returns the picture.

    Args:
        width: Width of the final picture in pixels.
        height: Height of the final picture in pixels.

    Example:
    >>> canvas = Canvas(120, 40)
    >>> canvas.tick((12, 20), 10, GREEN)
    >>> canvas.text((24, 20), "relevant", 13, anchor="lm")
    >>> canvas.finish().size
    (120, 40)
    """

    def __init__(self, width: float, height: float) -> None:
        self.width = math.ceil(width)
        self.height = math.ceil(height)
        large = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        self._large = Image.new("RGB", large, PAPER)
        self._draw = ImageDraw.Draw(self._large)
        self._photographs: list[tuple[Image.Image, tuple[int, int]]] = []

    def text(
        self,
        position: tuple[float, float],
        text: object,
        size: float,
        color: str = INK,
        anchor: str = "la",
    ) -> None:
        """Write a line of text; `anchor` follows Pillow ("lm": left, middle)."""
        self._draw.text(
            _enlarge(position),
            printable(text),
            fill=color,
            font=ImageFont.load_default(size=size * SUPERSAMPLING),
            anchor=anchor,
        )

    def line(
        self, points: Sequence[tuple[float, float]], color: str, width: float = 1
    ) -> None:
        """Draw a line through points, with round corners and round ends."""
        large = [_enlarge(point) for point in points]
        thickness = max(1, round(width * SUPERSAMPLING))
        self._draw.line(large, color, thickness, joint="curve")
        if width > 1:
            for end in (points[0], points[-1]):
                self.disc(end, width / 2, color)

    def disc(self, center: tuple[float, float], radius: float, color: str) -> None:
        """Draw a filled circle."""
        x, y = center
        box = (x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse(_enlarge(box), color)

    def rectangle(self, box: tuple[float, float, float, float], color: str) -> None:
        """Fill the rectangle (left, top, right, bottom)."""
        self._large.paste(color, tuple(round(value) for value in _enlarge(box)))

    def frame(
        self,
        box: tuple[float, float, float, float],
        color: str,
        width: float,
        dashed: bool = False,
    ) -> None:
        """Frame the rectangle from outside, in a solid or a dashed line."""
        x0, y0, x1, y1 = box
        inner = (x0 - width, y0 - width, x1 + width, y1 + width)
        self.rectangle((*inner[:2], inner[2], y0), color)
        self.rectangle((inner[0], y1, *inner[2:]), color)
        self.rectangle((*inner[:2], x0, inner[3]), color)
        self.rectangle((x1, *inner[1:]), color)
        if dashed:
            self._cut_gaps(inner, width)

    def _cut_gaps(self, box: tuple[float, float, float, float], width: float) -> None:
        x0, y0, x1, y1 = box
        for start, length, horizontal in ((x0, x1 - x0, True), (y0, y1 - y0, False)):
            # An odd number of equal pieces: every side begins and ends with a dash.
            pieces = 2 * max(1, round(length / (width * 5))) + 1
            step = length / pieces
            for piece in range(1, pieces, 2):
                a, b = start + piece * step, start + (piece + 1) * step
                if horizontal:
                    self.rectangle((a, y0, b, y0 + width), PAPER)
                    self.rectangle((a, y1 - width, b, y1), PAPER)
                else:
                    self.rectangle((x0, a, x0 + width, b), PAPER)
                    self.rectangle((x1 - width, a, x1, b), PAPER)

    def tick(self, center: tuple[float, float], size: float, color: str) -> None:
        """Draw a tick mark, the sign of a relevant result."""
        x, y = center
        points = [(-0.45, 0.02), (-0.13, 0.36), (0.45, -0.36)]
        at = [(x + dx * size, y + dy * size) for dx, dy in points]
        self.line(at, color, max(1.01, size / 5))

    def cross(self, center: tuple[float, float], size: float, color: str) -> None:
        """Draw a cross, the sign of a result that is not relevant."""
        x, y = center
        half = 0.36 * size
        width = max(1.01, size / 5)
        self.line([(x - half, y - half), (x + half, y + half)], color, width)
        self.line([(x - half, y + half), (x + half, y - half)], color, width)

    def photograph(self, image: Image.Image, corner: tuple[float, float]) -> None:
        """Place an image, pixel for pixel, with its upper left corner at `corner`."""
        self._photographs.append((image, (round(corner[0]), round(corner[1]))))

    def finish(self) -> Image.Image:
        """Return the picture as an RGB image of `width` by `height` pixels."""
        picture = self._large.reduce(SUPERSAMPLING)
        for image, corner in self._photographs:
            picture.paste(image, corner)
        return picture


def _enlarge(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value * SUPERSAMPLING for value in values)
