"""The contract between an exported model and its clients: names, and one error message.

`saved_model`, `graph` and `warmup` write models by it; `client`, `grpc_api` and
`rest_api` ask servers by it. A change here breaks clients of models that were exported
before, and models for clients that were installed before.

The module imports neither TensorFlow nor Keras: a client needs neither.

Dimension key: B files or images in a request, H, W height and width, D size of the
embedding.
"""

import re

# The signature of image files: (B,) strings, each the bytes of a file. Over REST,
# TensorFlow Serving decodes base64 for names that end in `_bytes`.
FILES_SIGNATURE, FILES_INPUT = "serving_default", "image_bytes"
# The signature of decoded images: (B, H, W, 3) float32 from 0 to 255.
PIXELS_SIGNATURE, PIXELS_INPUT = "images", "images"
# The result of both: (B, D) float32.
OUTPUT = "embedding"

_UNREADABLE, _POSITIONS = "unreadable bytes", "positions (from 0)"
_SIZE = "of a batch of"
# `tf.debugging.Assert` puts each part in brackets, and "..." where it has cut a list.
_UNREADABLE_ERROR = re.compile(
    rf"{_UNREADABLE}.*?{re.escape(_POSITIONS)}\]?\s*\[([\d\s]+)[^\]]*\]"
    rf"\s*\[?{_SIZE}\]?\s*\[?(\d+)",
    re.DOTALL,
)


def unreadable_error(max_pixels: int, positions, size) -> list:
    """The parts of the error message for files that cannot be decoded.

    Args:
        max_pixels: limit of the pixels of an image.
        positions: those of the files in the batch, from 0; a tensor or a list.
        size: B, number of files in the batch; a tensor or a number.

    Returns:
        Strings and the two values, in order, as `tf.debugging.Assert` takes them.
    """
    return [
        f"Expected readable JPEG, PNG, GIF or BMP files of at most {max_pixels} "
        f"pixels. Received {_UNREADABLE} in `{FILES_INPUT}` at the {_POSITIONS}",
        positions,
        _SIZE,
        size,
        "The log of the server has the reasons. Send the other files again.",
    ]


def parse_unreadable_error(message: str) -> tuple[list[int], int] | None:
    """The positions and the batch size in a message of `unreadable_error`.

    Returns:
        The positions, ascending, perhaps not all of them (TensorFlow cuts long lists),
        and B; None if the message is another one.

    >>> parse_unreadable_error(
    ...     "assertion failed: [Expected readable JPEG, PNG, GIF or BMP files of at "
    ...     "most 100 pixels. Received unreadable bytes in `image_bytes` at the "
    ...     "positions (from 0)] [2 4] [of a batch of] [5] [The log of the server ...]"
    ... )
    ([2, 4], 5)
    """
    found = _UNREADABLE_ERROR.search(message)
    if found is None:
        return None
    return [int(number) for number in found[1].split()], int(found[2])
