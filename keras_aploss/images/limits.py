"""Limits of image files, and the record of a file that breaks one.

Nothing here decodes: the module imports neither TensorFlow nor Keras, so that the
command line can print a limit in its help, and a client can refuse a file, at no cost.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

MAX_PIXELS = 100_000_000  # 300 MB once decoded
# A BMP of `MAX_PIXELS` pixels has 381 MiB; longer files are no photographs.
MAX_FILE_MIB = 512
# Of a JPEG: each scan goes over all pixels again, in as few as 40 bytes. Encoders write
# one, or some 10 if it is progressive; the TurboJPEG library's own limit is 500 too.
MAX_SCANS = 500
# A marker and the high byte of a length, which is 0 in every scan that a decoder takes.
# Compressed pixels never hold it, and other data once in 16 million bytes.
JPEG_SCAN = b"\xff\xda\x00"


class SkippedImage(NamedTuple):
    """A file that cannot be used as an image, and the reason in a sentence.

    Example:
        >>> from keras_aploss.images import SkippedImage
        >>> skipped = [SkippedImage("a.jpg", "the file is empty")]
        >>> for path, reason in skipped:
        ...     f"{path}: {reason}"
        'a.jpg: the file is empty'
    """

    path: str
    reason: str


def file_reason(path) -> str | None:
    """Check a file without opening it: reading from a pipe would wait for ever.

    Returns:
        The reason why the file must not be opened (it is a folder, a pipe, empty or
        over `MAX_FILE_MIB`), or None if it may be.

    Raises:
        OSError: there is no such file, or its status cannot be read.

    Example:
        >>> from keras_aploss.images import file_reason
        >>> file_reason("/")
        'it is a folder'
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file but a pipe, a socket or a device"
    if not status.st_size:
        return "the file is empty"
    if status.st_size > MAX_FILE_MIB * 2**20:
        size = status.st_size / 2**20
        return f"it is too large: {size:,.0f} MiB, over {MAX_FILE_MIB} MiB"
    return None


def none_readable(skipped: Sequence[SkippedImage]) -> ValueError:
    """The error where all files were left out and none is left to embed."""
    example = "".join(f", such as {path!r}: {reason}" for path, reason in skipped[:1])
    return ValueError(
        f"Expected at least one readable image. Received: {len(skipped)} files, none "
        f"readable{example}."
    )
