"""Image files: reading them lazily or at once, and finding the bad ones beforehand.

Large collections hold empty, truncated, animated and hostile files. One of them,
met in the middle of an epoch, ends a training run that lasted hours; so a full check
comes first and says of every bad file, in a sentence, why it is left out.

Dimension key: N files, H, W height and width in pixels, S `image_size`.
"""

import concurrent.futures
import io
import os
import pathlib
import stat
import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_aploss.data.decoding import (
    MAX_PIXELS,
    decode_image,
    resize_image,
    resize_shorter_side,
)

# Pillow's name for the JPEG of many phones: a second picture, for depth, follows it.
_MULTI_PICTURE_JPEG = "MPO"
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", _MULTI_PICTURE_JPEG)
# A BMP of `MAX_PIXELS` pixels has 381 MiB; what is longer is no photograph.
_MAX_FILE_MIB = 512


class SkippedImage(NamedTuple):
    """A file that can not be used, and a sentence that says why.

    Example:
        >>> from keras_aploss import SkippedImage
        >>> skipped = [SkippedImage("a.jpg", "the file is empty")]
        >>> for path, reason in skipped:
        ...     f"{path}: {reason}"
        'a.jpg: the file is empty'
    """

    path: str
    reason: str


# The decoder is traced once for all that call it; without AutoGraph, of which its
# operations have no need, in less than half the time.
_CONTENTS, _NUMBER = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)
_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8)


@tf.function(input_signature=[_CONTENTS, tf.TensorSpec([], tf.int64)], autograph=False)
def _decode(contents, max_pixels):
    return decode_image(contents, max_pixels=max_pixels)


@tf.function(input_signature=[_IMAGE, _NUMBER], autograph=False)
def _central_square(image, image_size):
    return resize_image(image, image_size)


@tf.function(input_signature=[_IMAGE, _NUMBER], autograph=False)
def _whole_image(image, image_size):
    return resize_shorter_side(image, image_size)


def load_image(path, image_size: int, *, crop: bool = True) -> np.ndarray:
    """Reads, decodes and resizes one image file.

    Args:
        path: a JPEG, PNG, GIF or BMP file of at most 512 MiB.
        image_size: length of the shorter side of the result.
        crop: keep the central square only. Otherwise the aspect is kept, up to 4:1;
            of a longer strip, the middle is kept.

    Returns:
        A `uint8` array, (image_size, image_size, 3) if `crop`.

    Raises:
        ValueError: the file is not a readable image.
        OSError: the file can not be opened.

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
    resize = _central_square if crop else _whole_image
    return read_image(path, lambda image: resize(image, image_size))


def read_image(path, change: Callable) -> np.ndarray:
    """Reads and decodes one image file, and changes its (H, W, 3) tensor.

    Raises:
        ValueError: the file is not a readable image.
        OSError: the file can not be opened.
    """
    problem = file_reason(path)
    if problem:
        raise _unreadable(path, problem)
    try:
        image = decode_contents(pathlib.Path(path).read_bytes())
    except ValueError as error:
        raise _unreadable(path, error) from error
    with tf.device("CPU:0"):
        return change(image).numpy()


def decode_contents(contents: bytes, max_pixels: int = MAX_PIXELS):
    """Decodes the bytes of an image file to a (H, W, 3) `uint8` tensor.

    Raises:
        ValueError: they are not those of a readable image; the message says why.
    """
    try:
        with tf.device("CPU:0"):
            return _decode(contents, max_pixels)
    except tf.errors.InvalidArgumentError as error:
        problem = _reason_to_skip(contents, max_pixels, 1) or _decoder_reason(error)
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
            return _map_in_threads(self.__getitem__, range(len(self)), workers, verbose)
        shape = (len(self), self.image_size, self.image_size, 3)
        images = np.empty(shape, np.uint8)

        def read(index):
            images[index] = self[index]

        _map_in_threads(read, range(len(self)), workers, verbose)
        return images


def find_unreadable(
    paths,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int = 8,
    workers: int | None = None,
    verbose: int = 0,
) -> list[SkippedImage]:
    """List the files that can not be used as images, with the reasons.

    Before anything is read, folders, pipes, devices and files over 512 MiB are
    refused. Every other file is judged by its header (format, size, frames, colours)
    and only then decoded to its last byte: by Pillow, which tells what is wrong, and
    by `decode_image`, which will have to read it later.

    Args:
        paths: the files.
        max_pixels: refuse larger images, from their header, without decoding them.
        min_side: refuse images with a side shorter than this.
        workers: threads; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        A `SkippedImage` for each bad file, in the order of `paths`. No file, however
        broken, raises.

    Example:
        >>> from keras_aploss import find_unreadable
        >>> find_unreadable(["nowhere.jpg"])
        [SkippedImage(path='nowhere.jpg', reason='the file does not exist')]
    """
    require_positive(max_pixels=max_pixels, min_side=min_side)
    paths = as_list(paths)

    def reason(path):
        return _reason_to_skip(path, max_pixels, min_side)

    with warnings.catch_warnings():
        # Between one and two times Pillow's own limit it only warns; ours decides.
        warnings.simplefilter("ignore")
        reasons = _map_in_threads(reason, paths, workers, verbose)
    found = zip(paths, reasons, strict=True)
    return [SkippedImage(path, reason) for path, reason in found if reason]


def _reason_to_skip(source, max_pixels, min_side):
    """Why a file, given by its path or its bytes, can not be used."""
    is_path = not isinstance(source, bytes)
    try:
        if is_path and (reason := file_reason(source)):
            return reason
        with PIL.Image.open(source if is_path else io.BytesIO(source)) as image:
            if reason := _header_reason(image, max_pixels, min_side):
                return reason
            image.load()
        contents = pathlib.Path(source).read_bytes() if is_path else source
        with tf.device("CPU:0"):
            _decode(contents, max_pixels)
    except FileNotFoundError:
        return "the file does not exist"
    except PermissionError:
        return "the file may not be read: permission denied"
    except PIL.UnidentifiedImageError:
        return "it is not an image, or its header is damaged"
    except PIL.Image.DecompressionBombError:
        return f"its header declares more than {max_pixels:,} pixels"
    except MemoryError:
        return "there is not enough memory to decode it"
    except tf.errors.OpError as error:
        return f"TensorFlow can not decode it: {_decoder_reason(error)}"
    # On hostile bytes Pillow raises almost anything: OSError, SyntaxError, ValueError,
    # struct.error, zlib.error, IndexError...
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return f"it is damaged: {message}"
    return None


def file_reason(path) -> str | None:
    """Why a file is not even to be opened: reading from a pipe waits for ever."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file but a pipe, a socket or a device"
    if not status.st_size:
        return "the file is empty"
    if status.st_size > _MAX_FILE_MIB * 2**20:
        size = status.st_size / 2**20
        return f"it is too large: {size:,.0f} MiB, over {_MAX_FILE_MIB} MiB"
    return None


def _header_reason(image, max_pixels, min_side):
    width, height = image.size
    if image.format not in _FORMATS:
        return (
            f"its format is {image.format}: only JPEG, PNG, GIF and BMP are read; "
            "convert it"
        )
    if width * height > max_pixels:
        return f"its header declares {width} x {height}, over {max_pixels:,} pixels"
    if min(width, height) < min_side:
        return f"it is too small: {width} x {height}, sides under {min_side} pixels"
    is_animated = getattr(image, "is_animated", False)
    if is_animated and image.format != _MULTI_PICTURE_JPEG:
        return "it is an animation: more than one frame"
    if image.mode == "CMYK":
        return "its colours are CMYK, made for printing; convert it to RGB"
    return None


def _map_in_threads(function, items, workers, verbose):
    """`[function(item) for item in items]`, by threads: decoders release the GIL."""
    progress = keras.utils.Progbar(len(items)) if verbose and items else None
    results = []
    workers = workers or os.cpu_count() or 1
    # Leaving cancels what has not begun: an error does not wait for the other files.
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for result in pool.map(function, items):
            results.append(result)
            if progress:
                progress.add(1)
    return results


def _decoder_reason(error):
    """The sentence inside an error of a graph, which wraps it in a call stack."""
    lines = [line for line in error.message.splitlines() if "{{node" not in line]
    return lines[-1].removeprefix("assertion failed: ")


def as_list(paths) -> list[str]:
    """The paths as text; a single path is refused, whose letters would be files."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(
            f"Expected a list of paths. Received: paths={paths!r}. Write [path]."
        )
    return [os.fspath(path) for path in paths]


def require_positive(**arguments) -> None:
    """Refuse what is not a positive integer, by its name."""
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"Expected a positive integer. Received: {name}={value!r}."
            )
