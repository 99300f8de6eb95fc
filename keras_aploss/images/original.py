"""Images at their own size, whole or cropped to a box: the protocol of the benchmarks.

A network that ends in a global pooling takes images of any size, and published numbers
are measured on whole photos, not on square crops. On Oxford and Paris the query is what
lies in a box, cut out before the network sees it.

Dimension key: N images, H, W height and width in pixels.
"""

import math
import os

import numpy as np
import tensorflow as tf

from keras_aploss.images.arguments import as_list, require_positive
from keras_aploss.images.files import read_image
from keras_aploss.images.resizing import resample

_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8)


@tf.function(input_signature=[_IMAGE, tf.TensorSpec([2], tf.int32)], autograph=False)
def _resample(image, size):
    return resample(image, size)


def scale_image(image, scale: float) -> np.ndarray:
    """Resize an image by a factor, with the filter of `resize_image`.

    That is an antialiased triangle ("bilinear" in Pillow, which gives the same pixels
    to one grey level, and with which the authors scale). Sides are rounded to whole
    pixels, at least one. A factor of 1 changes nothing.

    Args:
        image: (H, W, 3) `uint8` array.
        scale: the factor of both sides, above 0.

    Returns:
        A `uint8` array of shape (H * scale, W * scale, 3).

    Raises:
        ValueError: the factor is not a positive number, or the image not `uint8` of
            shape (H, W, 3).

    Example:
        >>> import numpy as np
        >>> from keras_aploss.images import scale_image
        >>> scale_image(np.zeros((60, 40, 3), "uint8"), 0.5).shape
        (30, 20, 3)
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"Expected a factor above 0. Received: {scale=}.")
    image = np.asarray(image)
    if scale == 1:
        return image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "Expected a uint8 image of shape (H, W, 3). Received: "
            f"shape={image.shape}, dtype={image.dtype}."
        )
    size = [max(1, round(side * scale)) for side in image.shape[:2]]
    with tf.device("CPU:0"):
        return _resample(image, size).numpy()


class OriginalImages:
    """A sequence of image files, read at their own size when they are asked for.

    `images[3]` is a `uint8` array of shape (H, W, 3), upright as its EXIF orientation
    says; `images[2:5]` and `images[indices]` are `OriginalImages`.

    A box is cut out first, at full resolution, and then shrunk as its image would be:
    what the published evaluations do.

    Args:
        paths: the files, as for `load_image`.
        boxes: for each file None (the whole image), or (left, top, right, bottom) in
            pixels of the original, upright image. Floats are rounded as by Pillow's
            `crop`. What lies less than a pixel outside is cut off, since some files
            count pixels from 1; a box that goes further out is an error when it is
            read.
        max_size: shrink images whose longer side is longer than this; a box by the
            factor of its whole image. None keeps all pixels. Nothing is enlarged.

    Raises:
        ValueError: from the constructor, for arguments that do not fit each other or
            a box that is empty or not finite; from `images[i]`, for a file that is not
            a readable image or that its box does not fit.

    Example:
        >>> import os, tempfile, PIL.Image
        >>> from keras_aploss.images import OriginalImages
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "wide.png")
        ...     PIL.Image.new("RGB", (600, 400), "white").save(path)
        ...     boxes = [None, (99.6, 0, 300.4, 400)]
        ...     images = OriginalImages([path, path], boxes=boxes, max_size=300)
        ...     [image.shape for image in images]
        [(200, 300, 3), (200, 100, 3)]
    """

    def __init__(self, paths, *, boxes=None, max_size: int | None = None):
        self.paths = as_list(paths)
        if max_size is not None:
            require_positive(max_size=max_size)
        if boxes is not None:
            boxes = list(boxes)
            if len(boxes) != len(self.paths):
                raise ValueError(
                    "Expected a box, or None, for each path. Received: "
                    f"len(paths)={len(self.paths)}, len(boxes)={len(boxes)}."
                )
            boxes = list(map(_checked_box, self.paths, boxes))
        self.boxes = boxes
        self.max_size = max_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        if isinstance(key, int | np.integer):
            box = None if self.boxes is None else self.boxes[key]
            return _read(self.paths[key], box, self.max_size)
        chosen = np.arange(len(self))[key].tolist()
        boxes = None if self.boxes is None else [self.boxes[i] for i in chosen]
        paths = [self.paths[i] for i in chosen]
        return OriginalImages(paths, boxes=boxes, max_size=self.max_size)


def _checked_box(path, box):
    """The box as four floats that span at least a pixel, or None."""
    if box is None:
        return None
    try:
        left, top, right, bottom = numbers = [float(value) for value in box]
        fits = all(map(math.isfinite, numbers))
        fits = fits and round(left) < round(right) and round(top) < round(bottom)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "Expected a box (left, top, right, bottom) in pixels, with left < right "
            f"and top < bottom. Received: box={box!r} for path={os.fspath(path)!r}."
        )
    return tuple(numbers)


def _read(path, box, max_size):
    def change(image):
        height, width = image.shape[:2]
        scale = min(1.0, (max_size or math.inf) / max(height, width))
        if box is not None:
            left, top, right, bottom = _corners(path, box, width, height)
            image = image[top:bottom, left:right]
        if scale == 1:
            return image
        return _resample(image, [max(1, round(n * scale)) for n in image.shape[:2]])

    return read_image(path, change)


def _corners(path, box, width, height):
    """The box in whole pixels within its image."""
    left, top, right, bottom = map(round, box)
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        raise ValueError(
            "Expected a box within its image. Received: "
            f"box={box} for path={os.fspath(path)!r} of {width} x {height} pixels. "
            "Check that the box belongs to this file, at this size."
        )
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        raise ValueError(
            f"Expected a box that holds a pixel of its image. Received: box={box} for "
            f"path={os.fspath(path)!r} of {width} x {height} pixels."
        )
    return left, top, right, bottom
