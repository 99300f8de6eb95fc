import numpy as np
import pytest
from PIL import Image

from keras_aploss.report.canvas import (
    GREEN,
    RED,
    Canvas,
    printable,
    shorten,
    text_width,
)


def colors(picture):
    return {tuple(color) for color in np.asarray(picture).reshape(-1, 3)}


def rgb(color):
    return tuple(bytes.fromhex(color[1:]))


def test_printable_keeps_only_what_the_font_can_show():
    assert printable("Åre – ½ köket\t城") == "Are - 1?2 koket??"
    assert printable(17) == "17"


@pytest.mark.parametrize("width", [5, 60, 150])
def test_shortened_text_fits_or_is_only_dots(width):
    text = shorten("a rather long name of a landmark", 13, width)
    assert text.endswith("...")
    assert text == "..." or text_width(text, 13) <= width


def test_text_that_fits_is_left_alone():
    assert shorten("short", 13, 500) == "short"


def test_a_photograph_is_pasted_pixel_for_pixel():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 3), "uint8")
    canvas = Canvas(60, 50)
    canvas.photograph(Image.fromarray(pixels), (11, 7))
    picture = np.asarray(canvas.finish())
    np.testing.assert_array_equal(picture[7:27, 11:41], pixels)


def test_a_solid_frame_surrounds_its_box_and_a_dashed_one_has_gaps():
    sides = []
    for dashed in (False, True):
        canvas = Canvas(60, 60)
        canvas.frame((10, 10, 50, 50), GREEN, 3, dashed)
        picture = np.asarray(canvas.finish())
        assert (picture[10:50, 10:50] == 255).all(), "drawn inside of the box"
        sides.append((picture[8, 7:53] == rgb(GREEN)).all(-1))
    assert sides[0].all()
    assert 0.4 < sides[1].mean() < 0.8
    assert sides[1][[0, -1]].all(), "a dashed frame keeps its corners"


def test_marks_differ_in_shape_not_only_in_colour():
    shapes = []
    for mark in ("tick", "cross"):
        canvas = Canvas(20, 20)
        getattr(canvas, mark)((10, 10), 14, RED)
        shapes.append(np.asarray(canvas.finish().convert("L")) < 200)
    either, both = shapes[0] | shapes[1], shapes[0] & shapes[1]
    assert both.sum() < 0.5 * either.sum()


def test_lines_are_anti_aliased():
    canvas = Canvas(40, 40)
    canvas.line([(3, 5), (36, 29)], GREEN, 2)
    assert len(colors(canvas.finish())) > 4
