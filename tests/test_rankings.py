import math

import numpy as np
import pytest

from keras_aploss.report import (
    Ranking,
    draw_grid,
    draw_rankings,
    draw_sprite,
    fit_image,
    rankings,
)
from keras_aploss.report.canvas import GREEN, RED


def plain(color, shape=(40, 40)):
    return np.full((*shape, 3), color, "uint8")


def ranking(relevant, size=(40, 40), **kwargs):
    count = len(relevant)
    return Ranking(
        query=plain(90, size),
        results=[plain(120, size)] * count,
        relevant=relevant,
        similarities=np.linspace(0.9, 0.1, count),
        **kwargs,
    )


def pixels_of(picture, color):
    color = np.array(list(bytes.fromhex(color[1:])))
    return (np.asarray(picture).astype(int) == color).all(-1)


def test_frames_follow_the_relevance():
    both = draw_rankings([ranking([True, False])])
    right = draw_rankings([ranking([True, True])])
    wrong = draw_rankings([ranking([False, False])])
    assert both.size == right.size == wrong.size
    # The legend and the two marks are everywhere; the frames are what differs.
    green = [pixels_of(picture, GREEN).sum() for picture in (wrong, both, right)]
    red = [pixels_of(picture, RED).sum() for picture in (right, both, wrong)]
    assert green[1] - green[0] == pytest.approx(green[2] - green[1], abs=8)
    assert red[1] - red[0] == pytest.approx(red[2] - red[1], abs=8)
    assert green[1] - green[0] > 1000 > red[1] - red[0] > 500, "solid, and dashed"


def test_the_first_result_is_on_the_left():
    picture = pixels_of(draw_rankings([ranking([True, False, False, False])]), GREEN)
    frame_columns = np.flatnonzero(picture.sum(0) > 90)
    assert frame_columns.min() > 150
    assert frame_columns.max() < 300


@pytest.mark.parametrize("size", [(32, 32), (512, 512), (512, 64), (7, 300)])
def test_images_of_any_size_are_displayed_at_one_size(size):
    picture = draw_rankings([ranking([True] * 3, size)])
    assert picture.size == draw_rankings([ranking([True] * 3)]).size


def test_rows_may_have_fewer_results_or_none():
    picture = draw_rankings([ranking([True] * 5), ranking([False]), ranking([])])
    assert picture.width == draw_rankings([ranking([True] * 5)]).width


def test_comparison_has_two_rows_per_query():
    after = [ranking([True, True], average_precision=0.9, name="x")] * 3
    before = [ranking([False, True], average_precision=0.4, name="x")] * 3
    alone = draw_rankings(after)
    compared = draw_rankings(after, before=before)
    assert compared.width == alone.width
    assert 1.7 * alone.height < compared.height < 2 * alone.height
    swapped = draw_rankings(before, before=after)
    assert np.any(np.asarray(swapped) != np.asarray(compared))


def test_every_text_shows():
    empty = np.asarray(draw_rankings([ranking([True])], title="a title"))
    variants = {
        "title": draw_rankings([ranking([True])], title="b title"),
        "name": draw_rankings([ranking([True], name="n")], title="a title"),
        "ap": draw_rankings([ranking([True], average_precision=0.5)], title="a title"),
    }
    for name, picture in variants.items():
        assert np.any(np.asarray(picture) != empty), name


def test_pictures_grow_with_the_displayed_size():
    small = draw_rankings([ranking([True, False])], size=96)
    large = draw_rankings([ranking([True, False])], size=192)
    assert large.width == pytest.approx(2 * small.width, abs=4)
    assert large.height == pytest.approx(2 * small.height, abs=4)


def test_rankings_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="at least one ranking"):
        draw_rankings([])
    with pytest.raises(ValueError, match="same queries"):
        draw_rankings([ranking([True])] * 2, before=[ranking([True])])
    with pytest.raises(ValueError, match="for every result"):
        draw_rankings([ranking([True])._replace(relevant=[True, False])])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), "float32"),
        np.zeros((8, 8), "uint8"),
        np.zeros((8, 8, 4), "uint8"),
    ],
)
def test_only_colour_images_of_bytes_are_drawn(image):
    with pytest.raises(ValueError, match="dtype uint8"):
        fit_image(image, 32)


def test_fitting_keeps_the_whole_image_and_its_proportions():
    fitted = np.asarray(fit_image(plain(0, (20, 80)), 40)).astype(int)
    black = (fitted == 0).all(-1)
    assert black.sum() == 40 * 10
    assert black[15:25].all()


def test_an_image_at_its_display_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), "uint8")
    np.testing.assert_array_equal(np.asarray(fit_image(image, 96)), image)


def test_grid_places_images_row_by_row():
    images = [plain(10 * index) for index in range(1, 6)]
    sheet = np.asarray(draw_grid(images, columns=2, size=30, gap=4))
    assert sheet.shape == (3 * 34 + 4, 2 * 34 + 4, 3)
    for index in range(5):
        row, column = divmod(index, 2)
        assert (sheet[4 + 34 * row + 15, 4 + 34 * column + 15] == 10 * index + 10).all()
    assert (sheet[-20, -20] == 255).all()


def test_grid_is_about_square_by_default():
    assert draw_grid(np.zeros((10, 8, 8, 3), "uint8"), size=8, gap=0).size == (32, 24)
    with pytest.raises(ValueError, match="at least one image"):
        draw_grid([])


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_sprite_is_a_square_of_thumbnails(count):
    sheet, size = draw_sprite([plain(index) for index in range(count)], size=16)
    columns = math.ceil(math.sqrt(count))
    assert sheet.size == (columns * 16, columns * 16)
    assert size == 16
    row, column = divmod(count - 1, columns)
    assert sheet.getpixel((column * 16 + 8, row * 16 + 8)) == (count - 1,) * 3


def test_sprite_never_exceeds_the_largest_texture(monkeypatch):
    assert rankings.LARGEST_SPRITE == 8192
    monkeypatch.setattr(rankings, "LARGEST_SPRITE", 500)
    sheet, size = draw_sprite(np.zeros((30, 4, 4, 3), "uint8"), size=1000)
    assert size == 500 // 6
    assert sheet.size == (6 * size, 6 * size)
