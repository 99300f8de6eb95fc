"""Thumbnails of indexed images, whose files may have changed since.

The owner of an index chose the images in it. Later, anything may lie at their paths: a
link to a private file, a pipe, another photo. So the bytes that are read are compared
with the hash in the index. Only pixels are sent: the bytes of a file also hold the
place and the time of a photo.
"""

import io
import os
import pathlib
import re
import stat

import numpy as np
import PIL.Image

from keras_aploss.images import decode_contents, file_reason, new_digest
from keras_aploss.search import IndexedImage

_QUALITY = 85
_HASH = re.compile("[0-9a-f]{32}")  # of `index_folder`; other ids are not compared


class ImageGoneError(Exception):
    """An image cannot be shown, or not any more; the message has the reason."""


def read_indexed(image: IndexedImage, folder: str, *, verify: bool = True) -> bytes:
    """The bytes of the file of an indexed image.

    Args:
        image: the image of the index.
        folder: images that are not compared with a hash must lie below it, after all
            links are followed.
        verify: compare the bytes with the id of the image, if that is a hash of
            `index_folder`.

    Raises:
        ImageGoneError: the file is gone or has changed, or lies outside of the folder.
    """
    path, compare = image.path, verify and _HASH.fullmatch(image.id)
    try:
        if not compare:
            path = os.path.realpath(path)
            if not path.startswith(os.path.join(os.path.realpath(folder), "")):
                raise ImageGoneError("it leads out of the folder of the index")
        reason = file_reason(path)
        contents = None if reason else _read(path)
    except OSError as error:
        raise ImageGoneError(f"it cannot be opened: {error.strerror}") from error
    if contents is None:
        raise ImageGoneError(reason or "it is not a regular file any more")
    if compare:
        digest = new_digest()
        digest.update(contents)
        if digest.hexdigest() != image.id:
            raise ImageGoneError("the file has changed since it was indexed")
    return contents


def _read(path):
    """The bytes of a regular file, or None; it does not wait for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        return file.read() if is_regular else None


def common_folder(paths) -> str:
    """The deepest folder that holds all files; empty if there is none."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    try:
        return os.path.commonpath(folders)
    except ValueError:  # none at all, or several drives of Windows
        return ""


def short_name(path: str, folder: str) -> str:
    """A path relative to a folder, so that the folders above it are not shown."""
    path = os.path.abspath(path)
    name = os.path.relpath(path, folder) if folder else os.path.basename(path)
    return pathlib.PurePath(name).as_posix()


def decode_indexed(contents: bytes, max_pixels: int) -> np.ndarray:
    """The `(H, W, 3)` pixels of the bytes of an indexed image."""
    try:
        return decode_contents(contents, max_pixels).numpy()
    except ValueError as error:
        raise ImageGoneError(str(error)) from error


def encode_thumbnail(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG of `(H, W, 3)` pixels, its longer side at most `side`."""
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((side, side), reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
