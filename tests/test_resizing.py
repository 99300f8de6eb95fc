import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from image_bytes import photo

from keras_aploss.images import resize_image
from keras_aploss.images.resizing import resize_shorter_side


@pytest.mark.parametrize("image_size", [1, 16, 37, 64])
@pytest.mark.parametrize("shape", [(37, 53), (90, 41), (200, 200)])
def test_resize_agrees_with_pillow(shape, image_size):
    picture = photo(*shape, noise=40)
    side, left, top = (
        min(shape),
        (shape[1] - min(shape)) // 2,
        (shape[0] - min(shape)) // 2,
    )
    square = picture.crop((left, top, left + side, top + side))
    expected = square.resize((image_size, image_size), PIL.Image.Resampling.BILINEAR)
    resized = resize_image(np.asarray(picture), image_size)
    assert resized.dtype == tf.uint8
    assert resized.shape == (image_size, image_size, 3)
    assert np.abs(resized.numpy().astype(int) - np.asarray(expected)).max() <= 1


def test_resize_of_the_right_size_changes_nothing():
    square = photo(64, 64, noise=40)
    np.testing.assert_array_equal(resize_image(np.asarray(square), 64), square)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (2, 3)])
def test_resize_of_extreme_shapes(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize_image(image, 48), np.full((48, 48, 3), 77))


def test_shorter_side_keeps_the_aspect():
    assert resize_shorter_side(np.zeros((30, 91, 3), np.uint8), 10).shape == (10, 30, 3)
    assert resize_shorter_side(np.zeros((91, 30, 3), np.uint8), 60).shape == (
        182,
        60,
        3,
    )


def test_shorter_side_keeps_the_middle_of_a_strip():
    strip = np.zeros((1, 5000, 3), np.uint8)
    strip[:, 2498:2502] = 255
    white = np.full((16, 64, 3), 255)
    np.testing.assert_array_equal(resize_shorter_side(strip, 16), white)
    turned = strip.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        resize_shorter_side(turned, np.int64(16)), white.transpose(1, 0, 2)
    )
