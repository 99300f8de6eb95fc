import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings, strategies as st

from keras_aploss.images import Augmentation
from keras_aploss.images.augmentation import jitter_colour, resample_crop

STILL = {"brightness": 0, "contrast": 0, "saturation": 0}


def photo(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(small)
    return np.asarray(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))


def test_the_result_depends_on_image_and_generator_alone():
    image = photo(70, 90)
    untouched = image.copy()
    augment = Augmentation(32, flip=True, hue=0.1)
    first = augment(image, np.random.default_rng([3, 5]))
    augment(image, np.random.default_rng([9]))
    again = Augmentation(32, flip=True, hue=0.1)(image, np.random.default_rng([3, 5]))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, untouched)
    other = augment(image, np.random.default_rng([3, 6]))
    assert np.abs(first.astype(int) - other).mean() > 3


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 70),
    st.floats(0, 180),
    st.integers(0, 10_000),
)
def test_no_view_shows_anything_but_the_image(height, width, size, rotation, seed):
    white = np.full((height, width, 3), 255, np.uint8)
    augment = Augmentation(size, rotation=rotation, flip=True, **STILL)
    view = augment(white, np.random.default_rng(seed))
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view, np.full((size, size, 3), 255, np.uint8))


def test_everything_off_is_the_plain_image():
    image = photo(48, 48)
    augment = Augmentation(48, scale=(1, 1), ratio=(1, 1), rotation=0, **STILL)
    np.testing.assert_array_equal(augment(image, np.random.default_rng(0)), image)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turns_go_clockwise_in_the_source(quarter_turns):
    image = photo(40, 40)
    turned = resample_crop(image, (20, 20, 40, 40), quarter_turns * math.pi / 2, 40)
    expected = np.rot90(image, quarter_turns)
    assert np.abs(turned.astype(int) - expected).max() <= 1


def test_mirroring_and_cropping_pick_the_right_pixels():
    image = photo(40, 60)
    box = (10 + 8, 4 + 8, 16, 16)
    part = image[4:20, 10:26]
    np.testing.assert_array_equal(resample_crop(image, box, 0.0, 16), part)
    mirrored = resample_crop(image, box, 0.0, 16, mirrored=True)
    np.testing.assert_array_equal(mirrored, part[:, ::-1])


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    # Pixels picked one by one would be 0 or 255, in slow waves.
    view = resample_crop(stripes, (120, 120, 240, 240), 0.1, 40)
    assert np.abs(view[8:-8, 8:-8].astype(int) - 127).max() <= 2


def where_it_came_from(height, width):
    """An image whose red and green are the row and the column of each pixel."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(241, 239), (100, 37), (37, 100), (16, 255)])
def test_shrinking_does_not_shift_the_image(shape):
    height, width = shape
    box = (width / 2, height / 2, width, height)
    view = resample_crop(where_it_came_from(*shape), box, 0.0, 16).astype(float)
    middles = np.arange(16) + 0.5
    # Pillow rounds down, twice; the border may cut the block of the last pixel.
    np.testing.assert_allclose(
        view[:-1, 3, 0], (middles * height / 16 - 0.5)[:-1], atol=1.5
    )
    np.testing.assert_allclose(
        view[3, :-1, 1], (middles * width / 16 - 0.5)[:-1], atol=1.5
    )


def test_crops_cover_the_drawn_share_of_the_image():
    image = where_it_came_from(90, 120)
    augment = Augmentation(30, scale=(0.3, 0.3), ratio=(1, 1), rotation=0, **STILL)
    centres = []
    for seed in range(200):
        rows, columns, _ = np.moveaxis(
            augment(image, np.random.default_rng(seed)).astype(float), -1, 0
        )
        side = math.sqrt(0.3 * 90 * 120)
        assert rows.max() - rows.min() == pytest.approx(side * 29 / 30, abs=1.5)
        assert columns.max() - columns.min() == pytest.approx(side * 29 / 30, abs=1.5)
        centres.append((rows.mean(), columns.mean()))
    free = np.array([90 - side, 120 - side]) / 2
    spread = np.abs(np.array(centres) - [44.5, 59.5])
    assert np.all(spread.max(axis=0) <= free + 1)
    np.testing.assert_allclose(spread.mean(axis=0), free / 2, rtol=0.15)


def test_flip_mirrors_every_second_view():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    options = {"scale": (1, 1), "ratio": (1, 1), "rotation": 0, **STILL}

    def share_mirrored(flip):
        augment = Augmentation(20, flip=flip, **options)
        views = [augment(image, np.random.default_rng(seed)) for seed in range(200)]
        return np.mean([view[5, 2, 0] > view[5, -2, 0] for view in views])

    assert share_mirrored(False) == 0
    assert 0.4 < share_mirrored(True) < 0.6


def test_colour_factors():
    image = np.array([[[100, 60, 20], [20, 60, 100]]], np.uint8)
    grey = image @ [0.299, 0.587, 0.114]
    np.testing.assert_array_equal(jitter_colour(image), image)
    np.testing.assert_allclose(jitter_colour(image, 1.5), image * 1.5, atol=0.5)
    np.testing.assert_array_equal(jitter_colour(image, 9.0)[0, 0, 0], 255)
    without = jitter_colour(image, saturation=0.0)
    np.testing.assert_allclose(without, np.repeat(grey[..., None], 3, -1), atol=0.51)
    flat = jitter_colour(image, contrast=0.0)
    np.testing.assert_allclose(flat, np.full(image.shape, grey.mean()), atol=0.51)


def test_a_third_of_the_colour_circle_turns_red_into_green():
    red = np.full((2, 2, 3), [240, 0, 0], np.uint8)
    turned = jitter_colour(red, hue=1 / 3).astype(int)
    assert np.abs(turned - [0, 240, 0]).max() <= 6
    np.testing.assert_array_equal(jitter_colour(red, hue=1.0), red)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 0},
        {"image_size": 32.0},
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"scale": (0.5, 1.5)},
        {"ratio": (-1, 1)},
        {"rotation": -1},
        {"rotation": 200},
        {"brightness": 1.0},
        {"contrast": -0.1},
        {"saturation": 1.1},
        {"hue": 0.6},
    ],
)
def test_arguments_are_checked(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"Expected .* Received: {name}="):
        Augmentation(**{"image_size": 32, **arguments})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_images_are_checked(image):
    with pytest.raises(ValueError, match="a uint8 image of shape"):
        Augmentation(8)(image, np.random.default_rng(0))
