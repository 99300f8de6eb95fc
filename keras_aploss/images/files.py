"""Read image files: one at a time, lazily, or all at once.

Dimension key: N files, H, W height and width in pixels, S `image_size`.
"""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_aploss.images.arguments import as_list, require_positive
from keras_aploss.images.decoding import decoder
from keras_aploss.images.limits import MAX_PIXELS, file_reason
from keras_aploss.images.resizing import resize_image, resize_shorter_side
from keras_aploss.images.unreadable import (
    decoder_reason,
    map_in_threads,
    reason_to_skip,
)


def load_image(path, image_size: int, *, crop: bool = True) -> np.ndarray:
    """Read, decode and resize one image file.

    Args:
        path: a JPEG, PNG, GIF or BMP file of at most 512 MiB.
        image_size: length of the shorter side of the result.
        crop: keep the central square only. Otherwise the aspect is kept, up to 4:1;
            of a longer strip, the middle is kept.

    Returns:
        A `uint8` array, (image_size, image_size, 3) if `crop`.

    Raises:
        ValueError: the file is not a readable image.
        OSError: the file cannot be opened.

    Example:
        >>> import os, tempfile, PIL.Image
        >>> from keras_aploss import load_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "wide.png")
        ...     PIL.Image.new("RGB", (60, 40), "white").save(path)
        ...     load_image(path, 32).shape, load_image(path, 32, crop=False).shape
        ((32, 32, 3), (32, 48, 3))
    """
    require_positive(image_size=image_size)
    resize = resize_image if crop else resize_shorter_side
    return _decode_file(path, resize, image_size).numpy()


def read_image(path, change: Callable) -> np.ndarray:
    """Read and decode one image file, and apply `change` to its (H, W, 3) tensor.

    Raises:
        ValueError: the file is not a readable image.
        OSError: the file cannot be opened.
    """
    image = _decode_file(path)
    with tf.device("CPU:0"):
        return change(image).numpy()


def decode_contents(contents: bytes, max_pixels: int = MAX_PIXELS):
    """Decode the bytes of an image file to a (H, W, 3) `uint8` tensor.

    Raises:
        ValueError: the image is not readable; the message gives the reason.
    """
    return _decode(contents, max_pixels)


def _decode_file(path, resize=None, image_size=0):
    problem = file_reason(path)
    if problem:
        raise _unreadable(path, problem)
    contents = pathlib.Path(path).read_bytes()
    try:
        return _decode(contents, MAX_PIXELS, resize, image_size)
    except ValueError as error:
        raise _unreadable(path, error) from error


def _decode(contents, max_pixels, resize=None, image_size=0):
    graph = decoder(resize)
    try:
        with tf.device("CPU:0"):
            sizes = tf.constant(max_pixels, tf.int64), tf.constant(image_size, tf.int32)
            return graph(tf.constant(contents), *sizes)
    except tf.errors.ResourceExhaustedError as error:
        raise ValueError("there is not enough memory for its pixels") from error
    except tf.errors.InvalidArgumentError as error:
        problem = reason_to_skip(contents, max_pixels, 1) or decoder_reason(error)
        raise ValueError(problem) from error


def _unreadable(path, problem):
    return ValueError(
        f"Expected a readable image. Received: path={os.fspath(path)!r}: {problem}. "
        "`find_unreadable(paths)` lists such files beforehand."
    )


class ImageFiles:
    """A sequence of image files that reads each one when it is asked for.

    Args:
        paths: the files.
        image_size: length of the shorter side of the images.
        crop: keep the central square only, so that all shapes agree; see `load_image`.

    `files[3]` is a `uint8` array; `files[2:5]` and `files[indices]` are `ImageFiles`.

    Example:
        >>> from keras_aploss import ImageFiles
        >>> files = ImageFiles(["a.jpg", "b.jpg", "c.jpg"], 64)
        >>> len(files), files[[2, 0]].paths
        (3, ['c.jpg', 'a.jpg'])
    """

    def __init__(self, paths, image_size: int, *, crop: bool = True):
        require_positive(image_size=image_size)
        self.paths = as_list(paths)
        self.image_size = image_size
        self.crop = crop

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        if isinstance(key, int | np.integer):
            return load_image(self.paths[key], self.image_size, crop=self.crop)
        if isinstance(key, slice):
            chosen = self.paths[key]
        else:
            chosen = [self.paths[i] for i in np.arange(len(self))[key]]
        return ImageFiles(chosen, self.image_size, crop=self.crop)

    def load(
        self, *, workers: int | None = None, verbose: int = 0
    ) -> np.ndarray | list[np.ndarray]:
        """Read all images, in order.

        Args:
            workers: threads; by default one per processor.
            verbose: 1 shows a progress bar.

        Returns:
            A `uint8` array of shape (N, S, S, 3); without `crop`, where the shapes
            differ, a list of arrays.
        """
        if not self.crop:
            return map_in_threads(self.__getitem__, range(len(self)), workers, verbose)
        shape = (len(self), self.image_size, self.image_size, 3)
        images = np.empty(shape, np.uint8)

        def read(index):
            images[index] = self[index]

        map_in_threads(read, range(len(self)), workers, verbose)
        return images
