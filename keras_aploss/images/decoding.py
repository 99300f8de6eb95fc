"""Decode images in TensorFlow operations only, alike in training and in serving.

A model trained on pixels from one decoder and served with another loses precision
without any error: JPEG decoders differ by several grey levels, resizing filters by
more, and a phone stores a portrait as a landscape with a note "turn me" in its EXIF
header that most decoders ignore. Everything here is therefore made of TensorFlow
operations: the same code fills a training batch and travels inside the SavedModel.

Formats, recognised by content and never by file name:

* JPEG, turned upright as its EXIF orientation says. The exact integer transform
  (`INTEGER_ACCURATE`) gives the very pixels of Pillow; the default one is off by 6.
  CMYK is converted.
* PNG with 1 to 16 bits, grey, colour or palette; transparency, be it a channel, in
  the palette or one colour named so, over white. Turned upright as its chunk eXIf says.
* GIF, its first frame, over white where it is transparent.
* BMP with 8 (palette), 24 or 32 bits, not compressed; a fourth byte is ignored.

WebP is refused: its operation is absent from older TensorFlow releases, where one
unknown operation prevents the whole SavedModel from loading.

The size of an image is read from its header and bounded *before* anything is
decoded: 10 kB of PNG can declare a billion pixels. So is the number of scans of a JPEG:
each goes over all its pixels again, and takes few bytes.

For small images, operations cost more than pixels: the executor of a graph visits the
nodes of a branch that is not taken as well. So a JPEG without EXIF goes through no
loop, and the code for rare cases (other formats, a search through segments) is in
functions that are never inlined: a branch not taken is then one node.

Dimension key: H, W height and width in pixels.
"""

import functools
import threading
from collections.abc import Callable

import tensorflow as tf

from keras_aploss.images.headers import (
    EXIF,
    MAX_EXIF_POSITION,
    PNG_EXIF,
    PNG_TRANSPARENCY,
    byte_values,
    exif_orientation,
    find_exif,
    find_gif_frame,
    find_png_exif,
    has_transparent_colour,
    integer,
)
from keras_aploss.images.limits import JPEG_SCAN, MAX_PIXELS, MAX_SCANS

_TRACING = threading.Lock()
_BMP_HEADER = 14 + 124  # the longest of its versions
_BGRX_MASKS = (0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0)  # of red, green and blue


def decode_image(contents, *, max_pixels=MAX_PIXELS):
    """Decode a JPEG, PNG, GIF or BMP file to upright RGB pixels.

    Made of TensorFlow operations, so that it runs eagerly, in a `tf.function`, in
    `tf.data` and in a served model alike.

    Args:
        contents: the bytes of the file: Python `bytes` or a scalar string tensor.
        max_pixels: refuse images whose header declares more pixels than this.

    Returns:
        A `uint8` tensor of shape (H, W, 3).

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image, are truncated,
            declare more than `max_pixels` pixels, or are a JPEG of over 500 scans.

    Example:
        >>> import tensorflow as tf
        >>> from keras_aploss.images import decode_image
        >>> red = tf.constant([[[255, 0, 0]] * 4] * 2, tf.uint8)
        >>> decode_image(tf.io.encode_png(red)).shape
        TensorShape([2, 4, 3])
    """
    contents = tf.ensure_shape(tf.convert_to_tensor(contents, tf.string), [])
    max_pixels = tf.cast(max_pixels, tf.int64)
    image = tf.cond(
        _starts_with(contents, b"\xff\xd8\xff"),
        lambda: _decode_jpeg(contents, max_pixels),
        lambda: _decode_other(contents, max_pixels),
    )
    return tf.ensure_shape(image, (None, None, 3))


def decoder(resize: Callable | None = None):
    """Return the graph from bytes to pixels, resized if asked for; it is traced once.

    It is one concrete function, whose call takes half as long as that of a
    `tf.function`. Tracing without AutoGraph, which it does not need, also takes less
    than half the time.
    """
    with _TRACING:  # `functools.cache` lets threads that come at once all trace
        return _traced_decoder(resize)


@functools.cache
def _traced_decoder(resize):
    def decode(contents, max_pixels, image_size):
        image = decode_image(contents, max_pixels=max_pixels)
        return resize(image, image_size) if resize else image

    types = [([], tf.string), ([], tf.int64), ([], tf.int32)]
    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in types]
    with tf.device("CPU:0"):
        graph = tf.function(decode, input_signature=signature, autograph=False)
        return graph.get_concrete_function()


def _checked(value, condition, message, *details):
    """Return `value`, usable only once `condition` was checked to hold."""
    check = tf.debugging.Assert(condition, [message, *details], summarize=16)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(value)


def _bounded(contents, height, width, max_pixels):
    return _checked(
        contents,
        (height > 0) & (width > 0) & (height * width <= max_pixels),
        "Expected an image of 1 to `max_pixels` pixels. Received a header that "
        "declares (height, width, max_pixels) =",
        tf.stack([height, width, max_pixels]),
    )


def _of_few_scans(contents):
    # By one operation that is written for text: it looks at each byte once.
    between_scans = tf.raw_ops.StringSplitV2(
        input=[contents], sep=JPEG_SCAN, maxsplit=MAX_SCANS + 1
    ).values
    return _checked(
        contents,
        tf.size(between_scans) - 1 <= MAX_SCANS,
        f"Expected a JPEG of at most {MAX_SCANS} scans. Received one of more, each "
        "of which goes over all pixels again. Save it again as an ordinary JPEG.",
    )


def _starts_with(contents, signature):
    return tf.equal(tf.strings.substr(contents, 0, len(signature)), signature)


def _contains(contents, word):
    """Whether `word` is anywhere in `contents`: one operation for many steps."""
    escaped = "".join(f"\\x{byte:02x}" for byte in word)
    return tf.strings.regex_full_match(contents, rf"(?s)\C*{escaped}\C*")


def _seldom(function, input_signature=None):
    """Make a `tf.function` that graphs call and never inline, for rare branches."""
    return tf.function(
        function,
        input_signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def _refuse(contents, max_pixels):
    return _checked(
        tf.zeros([1, 1, 3], tf.uint8),
        False,
        "Expected the bytes of a JPEG, PNG, GIF or BMP image. Received bytes that "
        "start with (in base64)",
        tf.io.encode_base64(tf.strings.substr(contents, 0, 12)),
        "Convert other formats first.",
    )


def _decode_jpeg(contents, max_pixels):
    # By the reader of the decoder: the very size that it is going to allocate.
    shape = tf.io.extract_jpeg_shape(contents, tf.int64)
    contents = _bounded(contents, shape[0], shape[1], max_pixels)
    contents = _of_few_scans(contents)
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    header = tf.strings.substr(contents, 0, MAX_EXIF_POSITION)
    return tf.cond(
        _contains(header, EXIF),
        lambda: _turn_upright(image, header),
        lambda: image,
    )


# The shapes are left open: else each size of an image would be traced anew.
@functools.partial(
    _seldom,
    input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([], tf.string),
    ],
)
def _turn_upright(image, header):
    """Undo the EXIF orientation of a JPEG: at most a transposition, then mirrors."""
    data = tf.io.decode_raw(header, tf.uint8)
    return _turn(image, exif_orientation(data, *find_exif(data)))


def _turn(image, orientation):
    def turn():
        turned = tf.cond(
            orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image
        )
        mirror_rows = tf.reduce_any(orientation == [3, 4, 7, 8])
        mirror_columns = tf.reduce_any(orientation == [2, 3, 6, 7])
        axes = tf.boolean_mask([0, 1], tf.stack([mirror_rows, mirror_columns]))
        return tf.reverse(turned, axes)

    return tf.cond(orientation > 1, turn, lambda: image)


@_seldom
def _decode_png(contents, max_pixels):
    data = tf.io.decode_raw(contents, tf.uint8)
    header = byte_values(data, 0, 26)
    height, width = integer(header[20:24]), integer(header[16:20])
    colour_type = header[25]
    # Most files name no transparent colour anywhere: these need no walk.
    has_colour = tf.cond(
        _contains(contents, PNG_TRANSPARENCY),
        lambda: has_transparent_colour(data),
        lambda: False,
    )
    contents = _bounded(contents, height, width, max_pixels)

    def decode(channels):
        return lambda: tf.io.decode_png(contents, channels=channels)

    # An alpha channel is asked for only where there is one: else TensorFlow fills it
    # with 1, 3 or 15 at 1, 2 or 4 bits. A palette comes with the channels it has.
    has_alpha = (colour_type > 3) | has_colour
    image = tf.cond(
        colour_type == 3,
        decode(0),
        lambda: tf.cond(has_alpha, decode(4), decode(3)),
    )

    def over_white():
        wide = tf.cast(image, tf.uint16)
        colour, alpha = wide[..., :3], wide[..., 3:]
        # At most 255 * 255 + 127: 16 bits hold it, at half the memory of floats.
        blended = colour * alpha + 255 * (255 - alpha)
        return tf.cast((blended + 127) // 255, tf.uint8)

    image = tf.cond(tf.shape(image)[2] == 4, over_white, lambda: image)
    return tf.cond(
        _contains(contents, PNG_EXIF),
        lambda: _turn(image, exif_orientation(data, *find_png_exif(data))),
        lambda: image,
    )


@_seldom
def _decode_gif(contents, max_pixels):
    """The first frame, over white where it is transparent.

    The other frames are cut off: each could be enormous as well. TensorFlow's decoder
    leaves transparent pixels black, and moves a frame by its place in the picture, out
    of the array that it returns: so the transparent colour is made an ordinary one,
    white, and the place is set to 0 before it sees the file.
    """
    data = tf.io.decode_raw(contents, tf.uint8)
    frame = find_gif_frame(data)
    contents = _bounded(contents, frame.height, frame.width, max_pixels)
    # Of the extension: 21 F9, its length, flags, two bytes of time, the colour.
    flags, _, _, colour = tf.unstack(byte_values(data, frame.control + 3, 4))
    is_transparent = (frame.control > 0) & (flags & 1 > 0)

    def with_white():
        opaque = _overwritten(contents, frame.control + 3, b"\0")
        return tf.cond(
            colour < frame.num_colours,
            lambda: _overwritten(opaque, frame.palette + 3 * colour, b"\xff\xff\xff"),
            lambda: opaque,
        )

    contents = tf.cond(is_transparent, with_white, lambda: contents)
    contents = _overwritten(contents, frame.position + 1, b"\0\0\0\0")
    first_frame = tf.strings.substr(contents, 0, tf.cast(frame.end, tf.int32)) + b";"
    return tf.io.decode_image(first_frame, channels=3, expand_animations=False)


def _overwritten(contents, position, new):
    """The bytes of a file, with others from a position on; an error beyond its end."""
    position = tf.cast(position, tf.int32)
    after = tf.strings.substr(contents, position + len(new), 2**31 - 1)
    return tf.strings.substr(contents, 0, position) + new + after


@_seldom
def _decode_bmp(contents, max_pixels):
    start = tf.strings.substr(contents, 0, _BMP_HEADER + 1024)
    data = tf.io.decode_raw(start, tf.uint8)

    def field(position, size):
        return integer(byte_values(data, position, size), little_endian=True)

    bits, compression, header_size = field(28, 2), field(30, 4), field(14, 4)
    plain = (compression == 0) & tf.reduce_any(bits == [8, 24, 32])
    masked = (compression == 3) & (bits == 32)
    masked &= tf.reduce_all(byte_values(data, 54, 12) == _BGRX_MASKS)
    contents = _checked(
        contents,
        (plain | masked) & (header_size >= 40) & (header_size < _BMP_HEADER),
        "Expected a BMP image with 8, 24 or 32 bits per pixel, not compressed. "
        "Received (bits, compression, header size) =",
        tf.stack([bits, compression, header_size]),
    )
    width, height = field(18, 4), field(22, 4)
    # Rows from the top down are written as a negative height.
    height = tf.minimum(height, 2**32 - height)
    contents = _bounded(contents, height, width, max_pixels)

    def from_palette():
        palette = byte_values(data, 14 + header_size, 1024)
        entries = tf.reshape(palette, [256, 4])  # blue, green, red, unused
        colours = tf.cast(tf.reverse(entries[:, :3], [1]), tf.uint8)
        index = tf.io.decode_bmp(contents)
        return tf.gather(colours, tf.cast(index[..., 0], tf.int32))

    def direct():
        return tf.io.decode_bmp(contents)[..., :3]

    return tf.cond(bits == 8, from_palette, direct)


@_seldom
def _decode_other(contents, max_pixels):
    signatures = [b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"]
    branches = [_decode_png, _decode_gif, _decode_bmp, _refuse]
    matches = [_starts_with(contents, signature) for signature in signatures]
    first_match = tf.argmax(tf.stack([*matches, True]), output_type=tf.int32)

    def bound(branch):
        return lambda: branch(contents, max_pixels)

    return tf.switch_case(first_match, [bound(branch) for branch in branches])
