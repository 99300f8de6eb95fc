"""The front of an invented building, painted from its attributes.

Every `box` is (left, top, width, height) in fractions of the picture, the whole
standing on `BASE`; `mark` is the landmark being painted.
"""

import numpy as np
from PIL import Image

from keras_aploss.datasets.landmarks.attributes import Landmark
from keras_aploss.datasets.landmarks.outlines import Canvas, mix, shade

BASE = 0.95  # where the building stands on its own canvas
TOWER = 0.15  # width of a tower

_RIDGED = {"gable", "hip", "mansard", "bell", "spire", "dome"}
_RISE = {"gable": 0.2, "onion": 0.17, "battlement": 0.05, "dome": 0.09, "hip": 0.12}

_INK = (34, 34, 38)
_LIT = (255, 208, 112)


def _paint_roof(canvas, mark, box):
    left, top, width, _ = box
    if mark.roof == "flat":
        canvas.stamp("box", left - 0.02, top, width + 0.04, 0.035, mark.trim)
        return
    colour = mark.roof_colour if mark.roof in _RIDGED else shade(mark.wall, 0.93)
    eaves = 0.02 if mark.roof in _RIDGED else 0
    left, width = left - eaves, width + 2 * eaves
    canvas.stamp(mark.roof, left, top + 0.002, width, mark.roof_height, colour)


def _paint_cornice(canvas, mark, box):
    """Paint the edge under the roof, and its shadow on the wall."""
    left, top, width, _ = box
    canvas.stamp("box", left, top + 0.03, width, 0.02, shade(mark.wall, 0.68))
    canvas.stamp("box", left - 0.02, top + 0.015, width + 0.04, 0.018, mark.trim)


def _paint_wall(canvas, mark, box):
    """Paint the wall and what is regular on it: courses, bands, beams."""
    left, top, width, height = box
    canvas.stamp("box", left, BASE, width, height, mark.wall)
    storey, column = height / mark.storeys, width / mark.columns
    if mark.texture == "brick":
        for row, y in enumerate(np.arange(BASE, top, -0.024)):
            canvas.stamp("box", left, y, width, 0.005, shade(mark.wall, 0.85))
            for x in np.arange(left + 0.025 * (row % 2), left + width, 0.05):
                canvas.stamp("box", x, y, 0.005, 0.024, shade(mark.wall, 0.85))
    elif mark.texture == "stone":
        tones = np.random.default_rng(mark.wall).uniform(0.8, 1.12, 400)
        for row, y in enumerate(np.arange(BASE, top + 0.03, -0.042)):
            for i, x in enumerate(np.arange(left, left + width - 0.02, 0.07)):
                tone = shade(mark.wall, tones[17 * row + i])
                size = min(0.064, left + width - x)
                canvas.stamp("box", x, y, size, 0.037, tone)
    elif mark.texture == "bands":
        for y in np.arange(BASE, top + 0.03, -0.5 * storey):
            tone = mix(mark.wall, mark.trim, 0.55)
            canvas.stamp("box", left, y, width, 0.18 * storey, tone)
    elif mark.texture in ("pilasters", "timber"):
        for i in range(mark.columns + 1):
            x = left + i * (column - 0.018 / mark.columns)
            canvas.stamp("box", x, BASE, 0.018, height, mark.trim)
    if mark.texture == "timber":
        for i in range(1, mark.storeys):
            canvas.stamp("box", left, top + i * storey, width, 0.018, mark.trim)


def _paint_window(canvas, mark, outline, pane, glass):
    """Paint one window; `pane` is (left, bottom, width, height)."""
    left, bottom, width, height = pane
    if outline == "disc":
        side = 1.1 * min(width, height)
        left, bottom = left + (width - side) / 2, bottom - (height - side) / 2
        width = height = side
    edge = min(0.012, 0.16 * width)
    wide, tall = width + 2 * edge, height + 2 * edge
    if outline == "box" and mark.shutters:
        x = left - 0.3 * width
        canvas.stamp("box", x, bottom, 1.6 * width, height, mark.accent)
    if outline == "box" and mark.hood != "none":
        shape, rise = ("gable", 0.03) if mark.hood == "gable" else ("box", 0.013)
        y = bottom - height - edge
        canvas.stamp(shape, left - 0.15 * width, y, 1.3 * width, rise, mark.trim)
    canvas.stamp(outline, left - edge, bottom + edge, wide, tall, mark.trim)
    canvas.stamp(outline, left, bottom, width, height, shade(glass, 0.75))
    canvas.stamp(outline, left, bottom, width, 0.82 * height, glass)
    if mark.mullion != "none":
        canvas.stamp("box", left + width / 2 - 0.004, bottom, 0.008, height, mark.trim)
    if mark.mullion == "cross":
        canvas.stamp("box", left, bottom - 0.5 * height, width, 0.008, mark.trim)


def _paint_storeys(canvas, mark, box, lit):
    """Paint the windows above the ground floor, and the balcony."""
    left, top, width, height = box
    storey, column = height / mark.storeys, width / mark.columns
    lamps = np.random.default_rng(mark.wall).random((mark.storeys, mark.columns)) < 0.6
    for row in range(mark.storeys - 1):
        outline = mark.top_window if row == 0 else mark.window
        bottom = top + (row + 0.5 + mark.window_height / 2) * storey
        for i in range(mark.columns):
            x = left + (i + 0.5 - mark.window_width / 2) * column
            pane = (x, bottom, mark.window_width * column, mark.window_height * storey)
            glass = _LIT if lit and lamps[row, i] else mark.glass
            _paint_window(canvas, mark, outline, pane, glass)
        if row == mark.balcony:
            rail, tall = shade(mark.trim, 0.72), 0.26 * storey
            for x in np.arange(left, left + width - 0.007, 0.024):
                canvas.stamp("box", x, bottom, 0.008, tall, rail)
            canvas.stamp("box", left - 0.01, bottom + 0.012, width + 0.02, 0.016, rail)
            canvas.stamp("box", left - 0.01, bottom - tall, width + 0.02, 0.01, rail)


def _paint_front_door(canvas, mark, box):
    left, _, width, height = box
    storey = height / mark.storeys
    door = (0.34 if mark.ground == "gate" else 0.17) * width
    outline = "arch" if mark.ground in ("gate", "portico") else "box"
    x = left + mark.door * (width - 1.3 * door) + 0.15 * door
    canvas.stamp(outline, x - 0.012, BASE, door + 0.024, 0.86 * storey, mark.trim)
    canvas.stamp(outline, x, BASE, door, 0.78 * storey, mark.accent)
    canvas.stamp("box", x - 0.02, BASE, door + 0.04, 0.014, shade(mark.trim, 0.8))


def _paint_ground_floor(canvas, mark, box, lit):
    """Paint the ground floor: a door among windows, an arcade, a shop, a portico."""
    left, _, width, height = box
    storey, column = height / mark.storeys, width / mark.columns
    glow, top = _LIT if lit else mark.glass, BASE - storey
    if mark.ground == "arcade":
        for x in left + column * (np.arange(mark.columns) + 0.1):
            tone = shade(glow, 0.6)
            canvas.stamp("arch", x, BASE, 0.8 * column, 0.86 * storey, tone)
        return
    if mark.ground == "shop":
        canvas.stamp("box", left + 0.03, BASE, width - 0.06, 0.7 * storey, glow)
        stripe = width / (2 * mark.columns + 1)
        for i in range(2 * mark.columns + 1):
            colour = mark.trim if i % 2 else mark.accent
            x, y = left + i * stripe, BASE - 0.56 * storey
            canvas.stamp("box", x, y, stripe, 0.32 * storey, colour)
    elif mark.ground == "portico":
        canvas.stamp("box", left, BASE, width, storey, shade(mark.wall, 0.6))
        for x in np.linspace(left, left + width - 0.045, mark.columns + 1):
            canvas.stamp("box", x, BASE, 0.045, storey, mark.trim)
        canvas.stamp("gable", left + 0.2 * width, top, 0.6 * width, 0.09, mark.trim)
        canvas.stamp("box", left, top + 0.011, width, 0.022, mark.trim)
    elif mark.ground == "door":
        for x in left + column * (np.arange(mark.columns) + 0.25):
            pane = (x, BASE - 0.2 * storey, 0.5 * column, 0.5 * storey)
            _paint_window(canvas, mark, "box", pane, glow)
    _paint_front_door(canvas, mark, box)


def _paint_tower(canvas, mark, left, height, lit):
    """Paint one tower: a wall, narrow windows, a roof of its own."""
    wall, top = mix(shade(mark.wall, 1.08), mark.trim, 0.15), BASE - height
    rim = shade(mark.wall, 0.7)
    canvas.stamp("box", left - 0.012, BASE, TOWER + 0.024, height, rim)
    canvas.stamp("box", left, BASE, TOWER, height, wall)
    for y in np.arange(top + 0.14, BASE - 0.08, 0.15):
        pane = (left + 0.33 * TOWER, y, 0.34 * TOWER, 0.085)
        _paint_window(canvas, mark, mark.window, pane, _LIT if lit else mark.glass)
    colour = wall if mark.tower_top == "battlement" else mark.roof_colour
    rise = _RISE[mark.tower_top]
    canvas.stamp(mark.tower_top, left - 0.015, top, TOWER + 0.03, rise, colour)
    canvas.stamp("box", left - 0.012, top + 0.016, TOWER + 0.024, 0.016, mark.trim)


def _paint_ornament(canvas, mark, box, lit):
    """Paint what crowns the building: a clock, a rose window, a flag, a cross."""
    rise = 0.03 if mark.roof == "flat" else 0.9 * mark.roof_height
    tip = box[1] - rise
    if mark.ornament in ("clock", "rose"):
        y = box[1] - 0.5 * rise + 0.03
        plain = (250, 244, 224) if mark.ornament == "clock" else mark.glass
        canvas.stamp("disc", 0.425, y + 0.075, 0.15, 0.15, mark.trim)
        canvas.stamp("disc", 0.44, y + 0.06, 0.12, 0.12, _LIT if lit else plain)
        if mark.ornament == "clock":
            canvas.stamp("box", 0.495, y, 0.012, 0.05, _INK)
            canvas.stamp("box", 0.495, y + 0.006, 0.042, 0.012, _INK)
        else:
            canvas.stamp("box", 0.494, y + 0.06, 0.012, 0.12, mark.trim)
            canvas.stamp("box", 0.44, y + 0.006, 0.12, 0.012, mark.trim)
    elif mark.ornament == "flag":
        canvas.stamp("box", 0.494, tip + 0.02, 0.012, 0.15, _INK)
        canvas.stamp("box", 0.506, tip - 0.06, 0.11, 0.065, mark.accent)
    elif mark.ornament == "cross":
        canvas.stamp("box", 0.491, tip + 0.02, 0.018, 0.13, mark.trim)
        canvas.stamp("box", 0.46, tip - 0.06, 0.08, 0.018, mark.trim)


def _paint_sign(canvas, mark, box):
    left, _, width, height = box
    y = BASE - height / mark.storeys
    if mark.sign == "blade":
        x = left + width - 0.09
        canvas.stamp("box", x, y, 0.075, 0.24, mark.accent)
        for i in range(3):
            canvas.stamp("box", x + 0.02, y - 0.03 - 0.07 * i, 0.035, 0.04, mark.trim)
    elif mark.sign == "banner":
        for x in (left + 0.12 * width, left + 0.88 * width - 0.05):
            canvas.stamp("box", x, y, 0.05, 0.2, mark.accent)
            canvas.stamp("disc", x + 0.008, y - 0.1, 0.034, 0.034, mark.trim)
    elif mark.sign == "board":
        x = left + 0.15 * width
        canvas.stamp("box", x, y + 0.01, 0.7 * width, 0.06, mark.accent)
        for x in np.arange(left + 0.2 * width, left + 0.8 * width, 0.05):
            canvas.stamp("box", x, y - 0.006, 0.028, 0.03, mark.trim)


def tower_positions(mark: Landmark) -> list[float]:
    """Return where the towers begin, from left to right."""
    left, right = 0.5 - mark.width / 2 - 0.05, 0.5 + mark.width / 2 + 0.05 - TOWER
    places = {"left": [left], "right": [right], "both": [left, right], "none": []}
    return places.get(mark.towers, [0.5 - TOWER / 2])


def draw_facade(mark: Landmark, size: int, *, lit: bool = False) -> Image.Image:
    """Paint the front of a building on a transparent square.

    Args:
        mark: its attributes.
        size: side of the picture in pixels.
        lit: paint lamps behind some of the windows.

    Returns:
        An RGBA image.

    Example:
    >>> from keras_aploss.datasets.landmarks import describe_landmark
    >>> draw_facade(describe_landmark(seed=0, number=3), 128).size
    (128, 128)
    """
    image = Image.new("RGBA", (2 * size, 2 * size), (*mark.wall, 0))
    canvas = Canvas(image)
    box = (0.5 - mark.width / 2, BASE - mark.height, mark.width, mark.height)
    start = box[0] + 0.1 * (mark.towers in ("left", "both"))
    stop = box[0] + mark.width - 0.1 * (mark.towers in ("right", "both"))
    inner = (start, box[1], stop - start, mark.height)
    _paint_roof(canvas, mark, box)
    _paint_wall(canvas, mark, box)
    _paint_cornice(canvas, mark, box)
    _paint_storeys(canvas, mark, inner, lit)
    _paint_ground_floor(canvas, mark, inner, lit)
    for left in tower_positions(mark):
        _paint_tower(canvas, mark, left, mark.height + 0.04, lit)
    _paint_ornament(canvas, mark, box, lit)
    _paint_sign(canvas, mark, inner)
    return image.reduce(2)
