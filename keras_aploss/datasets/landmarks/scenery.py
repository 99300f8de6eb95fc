"""Surroundings of a landmark: sky, hills, neighbours, trees, cars, people.

The problem: surroundings must not identify a building, so they are drawn anew for each
view, and the neighbours have walls and windows of the same kind.
A `weather` is (sky at the zenith, sky at the horizon, RGB gains of the light).
"""

import numpy as np
from PIL import Image, ImageFilter

from keras_aploss.datasets.landmarks.outlines import Canvas, jitter, mix, shade

WEATHERS = [
    ((84, 142, 212), (190, 216, 236), (1.05, 1.02, 0.96)),
    ((70, 130, 206), (206, 224, 236), (1.1, 1.08, 1.02)),
    ((176, 184, 192), (212, 214, 216), (0.88, 0.91, 0.94)),
    ((112, 156, 206), (250, 208, 152), (1.12, 0.97, 0.8)),
    ((84, 82, 142), (240, 160, 124), (0.88, 0.76, 0.8)),
    ((100, 110, 124), (160, 168, 174), (0.74, 0.78, 0.82)),
]
NIGHT = ((12, 16, 42), (44, 46, 88), (0.44, 0.48, 0.68))
_GROUNDS = [(96, 98, 104), (150, 146, 138), (104, 136, 76), (186, 170, 134)]
_GROUNDS += [(122, 118, 116), (222, 226, 232)]
_LEAVES = [(62, 108, 52), (88, 126, 58), (46, 88, 62), (172, 112, 44), (120, 134, 66)]
_PAINTS = [(178, 40, 40), (40, 78, 140), (228, 226, 220), (40, 42, 46), (222, 178, 46)]
_PAINTS += [(96, 128, 120), (150, 152, 158)]
_FACADES = [(188, 170, 148), (168, 112, 92), (206, 196, 178), (142, 140, 142)]
_FACADES += [(196, 152, 112), (150, 160, 172), (122, 106, 98)]
_SKIN = (214, 170, 140)
_LAMPLIGHT = (255, 224, 150)


def _pick(rng, options):
    return options[rng.integers(len(options))]


def paint_sky(rng, weather, side):
    """Paint a gradient, clouds that fade downwards and, by night, stars."""
    top, bottom = (np.asarray(jitter(rng, colour, 10)) for colour in weather[:2])
    # Clouds are soft: a quarter of the size is enough, blurred and enlarged.
    small = side // 4
    fade = np.linspace(0, 1, small)[:, None, None] ** rng.uniform(0.6, 1.2)
    rows = np.uint8(top + fade * (bottom - top))  # (S / 2, 1, 3)
    image = Image.fromarray(np.repeat(rows, small, axis=1))
    canvas, night = Canvas(image), weather is NIGHT
    for _ in range(rng.integers(0, 6)):
        x, y = rng.uniform((-0.2, 0.02), (1, 0.5))
        colour = mix(top, bottom if night else (250, 248, 246), rng.uniform(0.3, 0.9))
        for _ in range(4):
            dx, dy, wide = rng.uniform((0, 0, 0.1), (0.18, 0.03, 0.24))
            canvas.stamp("disc", x + dx, y + dy, wide, 0.35 * wide, colour)
    image = image.filter(ImageFilter.BoxBlur(1))
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    if night:
        for x, y in rng.uniform(0, (1, 0.5), (14, 2)):
            Canvas(image).stamp("box", x, y, 0.008, 0.008, (226, 226, 240))
    return image


def _paint_tree(canvas, rng, x, foot, size):
    """Paint a trunk and a crown of leaves, or a conifer."""
    colour = jitter(rng, _pick(rng, _LEAVES), 10)
    canvas.stamp("box", x - 0.03 * size, foot, 0.06 * size, 0.5 * size, (84, 66, 52))
    if rng.random() < 0.25:
        for i in range(3):
            wide, y = (0.5 - 0.12 * i) * size, foot - (0.18 + 0.24 * i) * size
            tone = shade(colour, 0.8 + 0.12 * i)
            canvas.stamp("gable", x - wide / 2, y, wide, 0.4 * size, tone)
        return
    for i in range(9):
        dx, dy, wide = rng.uniform((-0.26, 0.3, 0.2), (0.26, 0.75, 0.34)) * size
        tone = shade(colour, 0.78 + 0.05 * i)
        canvas.stamp("disc", x + dx - wide / 2, foot - dy, wide, wide, tone)


def _paint_house(canvas, rng, left, foot, width, height, glass):
    colour = jitter(rng, _pick(rng, _FACADES), 12)
    canvas.stamp("box", left, foot, width, height, colour)
    if rng.random() < 0.5:
        rise = rng.uniform(0.3, 0.5) * width
        canvas.stamp("gable", left, foot - height, width, rise, shade(colour, 0.6))
    rows, columns = rng.integers(2, 6), rng.integers(2, 4)
    for y in foot - height * (np.arange(rows) + 0.3) / rows:
        for x in left + width * (np.arange(columns) + 0.3) / columns:
            size = (0.45 * width / columns, 0.45 * height / rows)
            canvas.stamp("box", x, y, *size, glass)


def paint_background(canvas, rng, weather, horizon):
    """Paint far hills or a skyline, the ground, and near houses or trees."""
    far = mix(jitter(rng, (92, 112, 108), 14), weather[1], rng.uniform(0.2, 0.6))
    kind = _pick(rng, ["hills", "mountains", "skyline", "none"])
    count = {"hills": 3, "mountains": 5, "skyline": 9, "none": 0}[kind]
    shape = {"hills": "dome", "mountains": "gable"}.get(kind, "box")
    for x, wide, tall in rng.uniform((-0.3, 0.1, 0.08), (1, 0.2, 0.4), (count, 3)):
        wide *= {"hills": 5, "mountains": 3}.get(kind, 1)
        tone = shade(far, rng.uniform(0.85, 1.1))
        canvas.stamp(shape, x, horizon, wide, tall, tone)
    ground = jitter(rng, _pick(rng, _GROUNDS), 8)
    canvas.stamp("box", 0, 1, 1, 1 - horizon, ground)
    glass = (255, 220, 140) if weather is NIGHT else (76, 86, 100)
    for side in (0, 1):
        scenery = rng.random()
        if scenery < 0.4:
            wide, tall = rng.uniform((0.2, 0.25), (0.45, 0.8))
            left = -0.1 if side == 0 else 1.1 - wide
            _paint_house(canvas, rng, left, horizon + 0.02, wide, tall, glass)
        elif scenery < 0.75:
            for x in rng.uniform(0, 0.35, 2):
                size = rng.uniform(0.25, 0.6)
                _paint_tree(canvas, rng, abs(side - x), horizon + 0.03, size)
    return ground


def _paint_car(canvas, rng, x, foot, size):
    colour = jitter(rng, _pick(rng, _PAINTS), 8)
    for shape, left, bottom, width, height, tone in (
        ("hip", 0.16, 0.26, 0.62, 0.2, colour),
        ("hip", 0.24, 0.26, 0.46, 0.15, (70, 84, 96)),
        ("box", 0.0, 0.07, 1.0, 0.2, colour),
        ("disc", 0.14, 0.0, 0.18, 0.18, (28, 28, 30)),
        ("disc", 0.68, 0.0, 0.18, 0.18, (28, 28, 30)),
    ):
        corner = (x + left * size, foot - bottom * size)
        canvas.stamp(shape, *corner, width * size, height * size, tone)


def _paint_person(canvas, rng, x, foot, size):
    """Paint legs, a coat, a head and sometimes an umbrella."""
    legs, coat, roof = (jitter(rng, _pick(rng, _PAINTS), 12) for _ in range(3))
    parts = [
        ("box", 0.0, 0.0, 0.2, 0.45, shade(legs, 0.6)),
        ("hip", -0.06, 0.4, 0.32, 0.42, coat),
        ("disc", 0.0, 0.8, 0.2, 0.2, _SKIN),
        ("dome", -0.3, 0.95, 0.8, 0.25, roof),
    ]
    for shape, left, bottom, width, height, tone in parts[: 4 - (rng.random() < 0.7)]:
        corner = (x + left * size, foot - bottom * size)
        canvas.stamp(shape, *corner, width * size, height * size, tone)


def _paint_lamp(canvas, rng, x, foot, size):
    canvas.stamp("box", x, foot, 0.022, size, (44, 48, 52))
    canvas.stamp("disc", x - 0.025, foot - size, 0.07, 0.08, _LAMPLIGHT)


def _paint_foliage(canvas, rng):
    """Paint a branch that hangs into an upper corner, close to the camera."""
    colour, side = jitter(rng, _pick(rng, _LEAVES), 10), rng.integers(2)
    for i in range(18):
        along = rng.uniform(-0.05, 0.42)  # from the corner along the branch
        x, y = along, 0.04 + rng.uniform(0, 0.16) * (1 - along)
        wide, tone = rng.uniform(0.06, 0.14), shade(colour, 0.6 + 0.03 * i)
        canvas.stamp("disc", abs(side - x) - wide / 2, y, wide, wide, tone)


def paint_foreground(canvas, rng):
    """Paint up to two things that stand between the camera and the building."""
    for _ in range(rng.integers(0, 3)):
        kind, x, foot = rng.integers(6), rng.uniform(-0.05, 1), rng.uniform(0.94, 1.1)
        if kind == 0:
            _paint_tree(canvas, rng, x, foot, rng.uniform(0.5, 0.8))
        elif kind == 1:
            _paint_car(canvas, rng, x - 0.2, foot, rng.uniform(0.25, 0.45))
        elif kind == 2:
            _paint_lamp(canvas, rng, x, foot, rng.uniform(0.4, 0.8))
        elif kind == 3:
            _paint_foliage(canvas, rng)
        else:
            _paint_person(canvas, rng, x, foot, rng.uniform(0.16, 0.38))
