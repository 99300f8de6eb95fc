"""The synthetic landmarks: reproducible, varied, recognisable in each view."""

import dataclasses

import numpy as np
import pytest

from keras_aploss.datasets.landmarks import (
    describe_landmark,
    draw_facade,
    landmark_views,
)
from keras_aploss.datasets.landmarks.outlines import OUTLINES
from keras_aploss.datasets.landmarks.view import _homography


def views(seed=0, number=3, count=2, image_size=32):
    return landmark_views(seed, number, count, image_size)


def test_views_are_bit_identical_for_the_same_seed():
    np.testing.assert_array_equal(views(), views())


def test_a_view_does_not_depend_on_how_many_are_drawn():
    np.testing.assert_array_equal(views(count=4)[:2], views(count=2))


@pytest.mark.parametrize("other", [{"seed": 1}, {"number": 4}])
def test_seed_and_number_change_the_building(other):
    arguments = {"seed": 0, "number": 3}
    assert describe_landmark(**arguments) != describe_landmark(**arguments | other)
    assert (views() != views(**other)).mean() > 0.5


def test_views_of_one_landmark_differ():
    first, second = views()
    assert (first != second).mean() > 0.5


def test_dtype_and_shape():
    images = views(count=3, image_size=48)
    assert images.dtype == np.uint8
    assert images.shape == (3, 48, 48, 3)


def test_the_scene_is_the_same_at_another_size():
    small = views(number=5, count=6, image_size=32).astype("float32")
    large = views(number=5, count=6, image_size=64).astype("float32")
    reduced = large.reshape(6, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    for one, other in zip(small, reduced, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8


def test_no_two_landmarks_share_their_attributes():
    landmarks = {
        dataclasses.astuple(dataclasses.replace(describe_landmark(0, number), depth=0))
        for number in range(500)
    }
    assert len(landmarks) == 500


@pytest.mark.parametrize(
    "name", ["roof", "window", "ground", "towers", "texture", "ornament", "sign"]
)
def test_each_kind_of_part_occurs_and_none_decides(name):
    values = [getattr(describe_landmark(0, number), name) for number in range(300)]
    shares = [values.count(value) / 300 for value in set(values)]
    assert len(shares) >= 4
    assert max(shares) < 0.55


def test_every_landmark_can_be_painted():
    for number in range(60):
        mark = describe_landmark(1, number)
        alpha = np.asarray(draw_facade(mark, 64))[..., 3] / 255
        assert 0.2 < alpha.mean() < 0.85


def test_lamps_change_windows_only():
    for number in range(8):
        mark = describe_landmark(0, number)
        day, night = (
            np.asarray(draw_facade(mark, 128, lit=lit)).astype(int)
            for lit in (False, True)
        )
        changed = (day != night).any(axis=-1)
        assert 0.003 < changed.mean() < 0.4
        np.testing.assert_array_equal(day[..., 3], night[..., 3])


def test_outlines_stay_in_the_unit_square():
    for name, points in OUTLINES.items():
        points = np.array(points)
        assert points.min() >= -1e-9, name
        assert points.max() <= 1 + 1e-9, name


def test_homography_sends_the_corners_home():
    source = np.array([(0, 0), (10, 0), (10, 10), (0, 10)], float)
    target = np.array([(1, 2), (9, 1), (8, 9), (2, 7)], float)
    a, b, c, d, e, f, g, h = _homography(source, target)
    for (x, y), expected in zip(target, source, strict=True):
        scale = g * x + h * y + 1
        found = ((a * x + b * y + c) / scale, (d * x + e * y + f) / scale)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_building_fills_most_of_each_view(monkeypatch):
    """Paint the front magenta, all else as it is, and count."""
    from PIL import Image

    from keras_aploss.datasets.landmarks import view

    def magenta(mark, size, *, lit=False):
        front = draw_facade(mark, size)
        plain = Image.new("RGBA", front.size, (255, 0, 255, 0))
        plain.putalpha(front.getchannel("A"))
        return plain

    monkeypatch.setattr(view, "draw_facade", magenta)
    monkeypatch.setattr(view, "paint_foreground", lambda canvas, rng: None)
    shares = []
    for number in range(10):
        red, green, blue = np.moveaxis(views(number=number, count=6).astype(int), -1, 0)
        shares.append((np.minimum(red, blue) - green > 40).mean(axis=(1, 2)))
    assert np.min(shares) > 0.15
    assert np.mean(shares) > 0.35
