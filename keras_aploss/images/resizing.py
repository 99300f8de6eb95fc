"""Resize images, by the same filter in training and serving.

Dimension key: H, W height and width in pixels, S `image_size`.
"""

import tensorflow as tf

MAX_ASPECT = 4  # longer side by shorter side, in what `resize_shorter_side` keeps


def resize_image(image, image_size):
    """Resize the central square of an image to `image_size` x `image_size`.

    The same as scaling the shorter side to `image_size` and cropping the middle, but
    the crop comes first: a panorama never grows before it is cut, and no image, not
    even one of 1 x 5000 pixels, takes more memory than the result.

    The filter is an antialiased triangle ("bilinear"): Pillow gives the same pixels
    to one grey level, and unlike a cubic filter it cannot overshoot, so that the
    rounding to integers loses nothing to clipping.

    Args:
        image: (H, W, 3) `uint8` tensor or array.
        image_size: side of the result, an integer or a scalar tensor.

    Returns:
        A `uint8` tensor of shape (image_size, image_size, 3).

    Example:
        >>> import tensorflow as tf
        >>> from keras_aploss.images import resize_image
        >>> resize_image(tf.zeros([1, 5000, 3], tf.uint8), 32).shape
        TensorShape([32, 32, 3])
    """
    image = tf.convert_to_tensor(image)
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return resample(square, (image_size, image_size))  # (S, S, 3)


def resize_shorter_side(image, image_size):
    """Resize an image so that its shorter side is `image_size`.

    Nothing is cut, except from a strip: of one more than `MAX_ASPECT` (4) times as long
    as it is wide, the middle is kept. So no result has more than 4 `image_size`²
    pixels; whole, an image of 1 x 5000 would grow to 224 x 1,120,000.

    Args:
        image: (H, W, 3) `uint8` tensor or array.
        image_size: length of the shorter side of the result.

    Returns:
        A `uint8` tensor, (image_size, W', 3) or (H', image_size, 3), its longer side
        at most `MAX_ASPECT * image_size`.

    Example:
        >>> resize_shorter_side(tf.zeros([60, 90, 3], tf.uint8), 32).shape
        TensorShape([32, 48, 3])
    """
    image = tf.convert_to_tensor(image)
    shape = tf.shape(image)[:2]
    size, side = tf.cast(image_size, tf.int32), tf.reduce_min(shape)
    kept = tf.minimum(shape, MAX_ASPECT * side)
    top, left = tf.unstack((shape - kept) // 2)
    height, width = tf.unstack(kept)
    middle = image[top : top + height, left : left + width]
    return resample(middle, (kept * size + side // 2) // side)


def resample(image, size):
    """Resize an image to (height, width) by the package's one filter.

    Args:
        image: (H, W, 3) `uint8` tensor or array.
        size: height and width of the result, integers or a tensor of two.

    Returns:
        A `uint8` tensor of shape (height, width, 3).
    """
    resized = tf.image.resize(image, size, method="bilinear", antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)
