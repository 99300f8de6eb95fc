"""Photographs of a landmark: camera, light, exposure.

The problem: two views of one building must share the building and nothing else. The
front is a plane in space, projected to a random camera by one perspective warp; a side
wall and a shadow give it depth; the surroundings are drawn anew for each view; the
light tints all of it, and blur and noise are added at the end.

Space: x to the right, y downwards, z away from the camera, 0 on the facade's plane.
Dimension key: S: `image_size`, P: points, V: views.
"""

import functools

import numpy as np
from PIL import Image, ImageFilter

from keras_aploss.datasets.landmarks.attributes import describe_landmark
from keras_aploss.datasets.landmarks.facade import (
    BASE,
    TOWER,
    draw_facade,
    tower_positions,
)
from keras_aploss.datasets.landmarks.outlines import Canvas, shade
from keras_aploss.datasets.landmarks.scenery import (
    NIGHT,
    WEATHERS,
    paint_background,
    paint_foreground,
    paint_sky,
)

# Width of the top of a roof, as a fraction of its foot.
_RIDGES = {"gable": 0.0, "hip": 0.52, "mansard": 0.68}


def _camera(rng, mark):
    """Return a function from points in space (P, 3) to the picture (P, 2)."""
    yaw, pitch, roll = np.radians(rng.uniform([-32, -3, -4], [32, 12, 4]))
    distance = rng.uniform(1.3, 2.4)
    cos, sin = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cos[0], 0, sin[0]], [0, 1, 0], [-sin[0], 0, cos[0]]])
    about_x = np.array([[1, 0, 0], [0, cos[1], -sin[1]], [0, sin[1], cos[1]]])
    about_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    rotation = about_z @ about_x @ about_y

    def flat(points):
        turned = (np.asarray(points, float) - (0.5, 0.6, 0)) @ rotation.T
        return turned[:, :2] * distance / (turned[:, 2:] + distance)

    left, top = 0.48 - mark.width / 2, BASE - mark.height - mark.roof_height
    outline = flat([(x, y, 0) for x in (left, 1 - left) for y in (top, BASE)])
    low, high = outline.min(axis=0), outline.max(axis=0)
    zoom = rng.uniform(0.78, 1.15) / (high - low).max()
    extent = zoom * (high - low)
    # A building larger than the picture may lose at most a fifth on each side.
    slack = 0.5 * np.abs(1 - extent) + 0.04
    centre = 0.5 + rng.uniform(-slack, slack)
    return lambda points: (flat(points) - (low + high) / 2) * zoom + centre


def _homography(source, target):
    """Solve Pillow's eight numbers, which send `target` (4, 2) to `source` (4, 2)."""
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(rows, values)


def _paint_body(canvas, mark, project, sun):
    """Paint the side wall that this camera sees, with windows, and its roof."""
    towers, top = tower_positions(mark), BASE - mark.height
    edges = {-1: 0.5 - mark.width / 2, 1: 0.5 + mark.width / 2}
    if towers and towers[0] < edges[-1]:
        edges[-1] = towers[0]
    if towers and towers[-1] + TOWER > edges[1]:
        edges[1] = towers[-1] + TOWER
    for side, x in edges.items():
        front, back = project([(x, BASE, 0), (x, BASE, mark.depth)])
        if side * (back[0] - front[0]) <= 0:
            continue
        light = 0.72 + 0.3 * side * sun

        def wall(z, y, x=x):
            order = ((0, 0), (1, 0), (1, 1), (0, 1))
            return project([(x, y[j], z[i]) for i, j in order])

        if mark.roof in _RIDGES:
            eaves = 0.5 + side * mark.width / 2
            ridge = 0.5 + side * mark.width / 2 * _RIDGES[mark.roof]
            crest = top - mark.roof_height
            corners = [(eaves, top, 0), (eaves, top, mark.depth)]
            corners += [(ridge, crest, mark.depth), (ridge, crest, 0)]
            canvas.polygon(project(corners), shade(mark.roof_colour, light))
        canvas.polygon(wall((0, mark.depth), (top, BASE)), shade(mark.wall, light))
        storey = mark.height / mark.storeys
        for row in range(mark.storeys):
            y = top + (row + 0.3) * storey
            for z in (0.15 * mark.depth, 0.6 * mark.depth):
                pane = wall((z, z + 0.25 * mark.depth), (y, y + 0.45 * storey))
                canvas.polygon(pane, shade(mark.glass, light))


def _paint_shadow(canvas, mark, project, ground, sun):
    """Paint a dark strip on the ground, on the side away from the sun."""
    left, right = 0.48 - mark.width / 2, 0.52 + mark.width / 2
    near = [(right - 0.12 * sun, BASE, -0.14), (left - 0.12 * sun, BASE, -0.14)]
    strip = [(left, BASE, 0), (right, BASE, 0), *near]
    canvas.polygon(project(strip), shade(ground, 0.7))


def _develop(image, rng):
    """Add gradients of light, exposure, colour temperature, haze, blur and noise."""
    image = image.reduce(2)
    side = image.size[0]
    if rng.random() < 0.35:
        radius = rng.uniform(0.2, 0.6) * side / 64
        image = image.filter(ImageFilter.GaussianBlur(radius))
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    ramp = np.linspace(-slope, slope, side, dtype="float32")
    light = 1 + ramp * np.float32(np.cos(angle))
    light = light + ramp[:, None] * np.float32(np.sin(angle))  # (S, S)
    warmth = rng.uniform(-0.08, 0.08)
    gains = rng.uniform(0.8, 1.2) * np.array([1 + warmth, 1, 1 - warmth], "float32")
    pixels = np.asarray(image, "float32") * light[:, :, None] * gains
    contrast, lift = rng.uniform((0.85, -6), (1.15, 16))
    pixels = (pixels - 128) * np.float32(contrast) + np.float32(128 + lift)
    noise = rng.standard_normal(pixels.shape, "float32")
    pixels += noise * np.float32(rng.uniform(1, 6))
    return np.uint8(np.clip(pixels, 0, 255))  # (S, S, 3)


def _draw_view(mark, front_at, rng, image_size):
    """Draw one photograph; `front_at(night)` is the facade by day or by night."""
    night = rng.random() < 0.08
    weather = NIGHT if night else WEATHERS[rng.integers(len(WEATHERS))]
    sun, side = rng.uniform(-1, 1), 2 * image_size
    image = paint_sky(rng, weather, side)
    canvas = Canvas(image, weather[2])
    project = _camera(rng, mark)
    feet = project([(0.5 - mark.width / 2, BASE, 0), (0.5 + mark.width / 2, BASE, 0)])
    horizon = min(0.97, feet[:, 1].min() - rng.uniform(0.02, 0.14))
    ground = paint_background(canvas, rng, weather, horizon)
    _paint_body(canvas, mark, project, sun)
    _paint_shadow(canvas, mark, project, ground, sun)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    target = project(np.column_stack([corners, np.zeros(4)])) * side
    front = front_at(night).transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        _homography(corners * side, target),
        Image.Resampling.BILINEAR,
    )
    image.paste(_light(front, (1, 1, 1) if night else weather[2]), (0, 0), front)
    paint_foreground(canvas, rng)
    return _develop(image, rng)


def _light(image, gains):
    red, green, blue = gains
    matrix = (red, 0, 0, 0, 0, green, 0, 0, 0, 0, blue, 0)
    return image.convert("RGB").convert("RGB", matrix)


def _draw_front(mark, size, night):
    """Paint the facade; by night it is dark, but for the windows with lamps."""
    front = draw_facade(mark, size)
    if not night:
        return front
    lit, day = np.asarray(draw_facade(mark, size, lit=True)), np.asarray(front)
    glow = (lit != day).any(axis=-1, keepdims=True)
    dark = np.uint8(day * (*NIGHT[2], 1.0))
    return Image.fromarray(np.where(glow, lit, dark))


def landmark_views(seed: int, number: int, count: int, image_size: int) -> np.ndarray:
    """Draw `count` views of landmark `number`.

    Args:
        seed: seed of the whole set.
        number: number of the landmark.
        count: number of views, V. View v does not depend on it.
        image_size: side of the pictures, S, in pixels.

    Returns:
        (V, S, S, 3) array of uint8.

    Example:
    >>> landmark_views(seed=0, number=3, count=2, image_size=64).shape
    (2, 64, 64, 3)
    """
    mark = describe_landmark(seed, number)
    front_at = functools.cache(functools.partial(_draw_front, mark, 2 * image_size))
    views = np.empty((count, image_size, image_size, 3), np.uint8)
    for view in range(count):
        rng = np.random.default_rng([seed, number, view])
        views[view] = _draw_view(mark, front_at, rng, image_size)
    return views
