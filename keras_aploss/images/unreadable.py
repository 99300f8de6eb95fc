"""Find image files that cannot be used, each with the reason, before a run starts.

Large collections hold empty, truncated, animated and hostile files. One of them,
met in the middle of an epoch, ends a training run that lasted hours; so a full check
comes first and gives, for each bad file, the reason in a sentence.
"""

import concurrent.futures
import io
import os
import pathlib
import re
import warnings

import keras
import PIL.Image
import tensorflow as tf

from keras_aploss.images.arguments import as_list, require_positive
from keras_aploss.images.decoding import decoder
from keras_aploss.images.limits import (
    JPEG_SCAN,
    MAX_PIXELS,
    MAX_SCANS,
    SkippedImage,
    file_reason,
)

# Pillow's name for the JPEG of many phones: a second picture, for depth, follows it.
_MULTI_PICTURE_JPEG = "MPO"
_JPEG = ("JPEG", _MULTI_PICTURE_JPEG)
MIN_SIDE = 8  # pixels
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", _MULTI_PICTURE_JPEG)


def find_unreadable(
    paths,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    verbose: int = 0,
) -> list[SkippedImage]:
    """List the files that cannot be used as images, with the reasons.

    Before anything is read, folders, pipes, devices and files over 512 MiB are
    refused. Every other file is judged by its header (format, size, frames, colours)
    and only then read to its last byte by the decoder that will have to read it later,
    which makes no pixels of a JPEG here; where it fails, Pillow tells what is wrong.

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
        >>> from keras_aploss.images import find_unreadable
        >>> find_unreadable(["nowhere.jpg"])
        [SkippedImage(path='nowhere.jpg', reason='the file does not exist')]
    """
    require_positive(max_pixels=max_pixels, min_side=min_side)
    paths = as_list(paths)

    def reason(path):
        return reason_to_skip(path, max_pixels, min_side)

    with warnings.catch_warnings():
        # Between one and two times Pillow's own limit it only warns; ours decides.
        warnings.simplefilter("ignore")
        reasons = map_in_threads(reason, paths, workers, verbose)
    found = zip(paths, reasons, strict=True)
    return [SkippedImage(path, reason) for path, reason in found if reason]


def reason_to_skip(source, max_pixels=MAX_PIXELS, min_side=MIN_SIDE) -> str | None:
    """Return the reason why a file (its path or its bytes) cannot be used, or None.

    Pillow may warn of odd files that can be used.
    """
    is_path = not isinstance(source, bytes)
    try:
        if is_path and (reason := file_reason(source)):
            return reason
        with PIL.Image.open(source if is_path else io.BytesIO(source)) as image:
            if reason := _header_reason(image, max_pixels, min_side):
                return reason
            contents = pathlib.Path(source).read_bytes() if is_path else source
            if image.format in _JPEG and contents.count(JPEG_SCAN) > MAX_SCANS:
                return (
                    f"it is a JPEG of more than {MAX_SCANS} scans, each of which goes "
                    "over all pixels again; save it again as an ordinary JPEG"
                )
            if image.format == "GIF":  # damaged frames pass TensorFlow's decoder
                image.load()
            try:
                _read_to_the_end(contents, image.format, max_pixels)
            except tf.errors.OpError:
                image.load()  # Pillow says it more clearly, if it fails as well
                raise
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
        return f"TensorFlow can not decode it: {decoder_reason(error)}"
    # On hostile bytes Pillow raises almost anything: OSError, SyntaxError, ValueError,
    # struct.error, zlib.error, IndexError...
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return f"it is damaged: {message}"
    return None


def _read_to_the_end(contents, format_name, max_pixels):
    with tf.device("CPU:0"):
        if format_name in _JPEG:
            # Every byte is read, and no pixel made: the mean of each 8 x 8 block is
            # stored, and all else decoded and left.
            tf.io.decode_jpeg(contents, channels=3, ratio=8)
        else:
            sizes = tf.constant(max_pixels, tf.int64), tf.constant(0, tf.int32)
            decoder()(tf.constant(contents), *sizes)


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


def map_in_threads(function, items, workers, verbose):
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


def decoder_reason(error):
    """The sentence inside an error of TensorFlow, which wraps it in a call stack."""
    message = re.sub(r"\{\{function_node [^}]*\}\}| \[Op:\w+\].*", "", error.message)
    lines = [line.strip() for line in message.splitlines()]
    # Such lines name a node of the graph, or the call of one.
    lines = [line for line in lines if line and not re.match(r".*\{\{node|\[\[", line)]
    return (
        lines[-1].removeprefix("assertion failed: ") if lines else type(error).__name__
    )
