"""Read headers of image files in TensorFlow operations: EXIF, sizes, transparency.

TensorFlow's decoders read no EXIF, no size of a GIF and no transparent colour. So the
headers are parsed here. The files may be hostile: every loop moves forward at each
step and is bounded, and a read beyond the end repeats the last byte instead of
failing. Malformed headers give a size of 0 or orientation 1.
"""

from typing import NamedTuple

import tensorflow as tf

_MAX_SEGMENTS = 1024  # of a JPEG or PNG header: some 10 in practice
_MAX_GIF_BLOCKS = 64  # before the first frame: palettes, comments
_MAX_GIF_PIECES = 65_536  # of at most 255 bytes in a block: 16 MB
EXIF = b"Exif\0\0"  # how the body of its segment begins
# The standard wants EXIF first of all; 1 MiB leaves room for 16 segments before it.
MAX_EXIF_POSITION = 2**20
_ORIENTATION_TAG = 0x0112
_SHORT = 3  # the TIFF code of a 16-bit integer
_MAX_PNG_CHUNKS = 16_384  # pixels included: 128 MiB in pieces of 8 KiB, as usual
PNG_TRANSPARENCY, PNG_EXIF = b"tRNS", b"eXIf"

# Kinds of JPEG markers. The first two are also the bytes to go forward: FF FF
# pads, as does a byte outside a segment; FF 00, TEM, RSTn and SOI have no length.
_PADDING, _BARE, _SEGMENT, _APP1, _END = 1, 2, 3, 4, 5


def _marker_kind(marker):
    if marker == 0xFF:
        return _PADDING
    if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
        return _BARE
    return {0xE1: _APP1, 0xD9: _END, 0xDA: _END}.get(marker, _SEGMENT)


_MARKER_KINDS = [_marker_kind(marker) for marker in range(256)]


def byte_values(data, start, size):
    """`size` bytes from `start` as int64; beyond the end, the last byte repeats."""
    position = start + tf.range(tf.cast(size, tf.int64))
    last = tf.size(data, tf.int64) - 1
    return tf.cast(tf.gather(data, tf.clip_by_value(position, 0, last)), tf.int64)


def integer(digits, *, little_endian=False):
    """The integer that the bytes on the last axis of `digits` spell."""
    length = digits.shape[-1]
    powers = tf.constant([256**i for i in reversed(range(length))], tf.int64)
    ordered = tf.where(little_endian, tf.reverse(digits, [-1]), digits)
    return tf.reduce_sum(ordered * powers, axis=-1)


def find_exif(data):
    """Steps from segment to segment of a JPEG up to EXIF, or to the first scan.

    Returns:
        Two int64 scalars: where the TIFF block of the EXIF segment starts and ends;
        0, 0 without EXIF.
    """
    size = tf.size(data)
    padded = tf.concat([data, tf.zeros([10], tf.uint8)], axis=0)

    def unfinished(position, finished, _):
        return (position < size) & ~finished

    # Some ten steps for a photo of a phone: few operations in each.
    def step(position, finished, exif):
        # FF, the marker, the length in two bytes, the first six of the body.
        head = tf.cast(tf.slice(padded, [position], [10]), tf.int32)
        prefix, marker, high, low = tf.unstack(head[:4])
        kind = tf.where(prefix == 0xFF, tf.gather(_MARKER_KINDS, marker), _PADDING)
        segment = 2 + tf.maximum(256 * high + low, 2)
        is_exif = (kind == _APP1) & tf.reduce_all(head[4:] == tuple(EXIF))
        return (
            position + tf.where(kind <= _BARE, kind, segment),
            (kind == _END) | is_exif,
            tf.where(is_exif, position, exif),
        )

    start = (tf.constant(2), tf.constant(False), tf.constant(0))
    _, _, exif = tf.while_loop(
        unfinished, step, start, maximum_iterations=_MAX_SEGMENTS
    )
    exif = tf.cast(exif, tf.int64)
    end = exif + 2 + integer(byte_values(data, exif + 2, 2))
    return (
        tf.where(exif > 0, exif + 10, 0),
        tf.where(exif > 0, tf.minimum(end, tf.size(data, tf.int64)), 0),
    )


def exif_orientation(data, start, end):
    """The orientation, 1 to 8, that a TIFF block gives; 1 if it is malformed."""
    header = byte_values(data, start, 8)
    little_endian = header[0] == ord("I")
    is_order = (header[0] == header[1]) & (little_endian | (header[0] == ord("M")))
    valid = is_order & (integer(header[2:4], little_endian=little_endian) == 42)
    directory = start + integer(header[4:8], little_endian=little_endian)
    declared = integer(byte_values(data, directory, 2), little_endian=little_endian)
    # An entry outside the segment is not there, whatever the block declares.
    count = tf.clip_by_value((end - directory - 2) // 12, 0, declared)
    entries = tf.reshape(byte_values(data, directory + 2, count * 12), [-1, 12])
    tag = integer(entries[:, 0:2], little_endian=little_endian)  # (count,)
    kind = integer(entries[:, 2:4], little_endian=little_endian)
    value = integer(entries[:, 8:10], little_endian=little_endian)
    is_orientation = (tag == _ORIENTATION_TAG) & (kind == _SHORT) & valid
    orientation = tf.reduce_max(tf.where(is_orientation, value, 0))
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)


def has_transparent_colour(data):
    """True if a PNG has a transparent colour: a chunk tRNS before the pixels."""
    return _find_png_chunk(data, PNG_TRANSPARENCY, b"IDAT", _MAX_SEGMENTS) > 0


def find_png_exif(data):
    """Where the TIFF block in the chunk eXIf of a PNG starts and ends; 0, 0 without it.

    The chunk may come before the pixels or after them. Some programs begin it with the
    six bytes that the segment of a JPEG begins with.
    """
    chunk = _find_png_chunk(data, PNG_EXIF, b"IEND", _MAX_PNG_CHUNKS)
    end = chunk + 8 + integer(byte_values(data, chunk, 4))
    has_prefix = tf.reduce_all(byte_values(data, chunk + 8, 6) == tuple(EXIF))
    start = tf.where(has_prefix, chunk + 14, chunk + 8)
    return (
        tf.where(chunk > 0, start, 0),
        tf.where(chunk > 0, tf.minimum(end, tf.size(data, tf.int64)), 0),
    )


def _find_png_chunk(data, wanted, last, max_chunks):
    """The int64 position of the first chunk named `wanted`, or 0: none up to `last`."""
    size = tf.size(data, tf.int64)
    wanted, last = int.from_bytes(wanted, "big"), int.from_bytes(last, "big")

    def unfinished(position, name, _):
        return (position < size) & (name != wanted) & (name != last)

    def step(position, name, _):
        # The length of the body, the name; after the body, four bytes of checksum.
        head = tf.reshape(byte_values(data, position, 8), [2, 4])
        length, name = tf.unstack(integer(head))
        return position + 12 + length, name, position

    first_chunk, none = tf.constant(8, tf.int64), tf.constant(0, tf.int64)
    _, name, position = tf.while_loop(
        unfinished, step, (first_chunk, none, none), maximum_iterations=max_chunks
    )
    return tf.where(name == wanted, position, 0)


class GifFrame(NamedTuple):
    """Where the first frame of a GIF is: int64 scalars.

    Attributes:
        height: of the frame; 0 if there is none.
        width: of the frame.
        position: of its descriptor.
        end: the position after it.
        control: the position of its graphic control extension, which may name a
            transparent colour; 0 if it has none.
        palette: the position of the colours, of three bytes each, that it uses.
        num_colours: their number.
    """

    height: tf.Tensor
    width: tf.Tensor
    position: tf.Tensor
    end: tf.Tensor
    control: tf.Tensor
    palette: tf.Tensor
    num_colours: tf.Tensor


def find_gif_frame(data):
    """Step over the blocks of a GIF up to the end of its first frame: a `GifFrame`."""
    size = tf.size(data, tf.int64)

    def num_colours(flags):
        entries = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags & 7)
        return tf.where(flags & 0x80 > 0, entries, 0)

    def skip_pieces(position):
        """Over pieces of 1 + length bytes up to the one of length 0."""

        def length(position):
            return tf.cast(data[tf.minimum(position, size - 1)], tf.int64)

        last = tf.while_loop(
            lambda position: (position < size) & (length(position) > 0),
            lambda position: [position + 1 + length(position)],
            [position],
            maximum_iterations=_MAX_GIF_PIECES,
        )
        return last[0] + 1

    def unfinished(position, finished, *_):
        return (position < size) & ~finished

    def step(position, finished, frame, control):
        head = byte_values(data, position, 10)
        is_frame, is_extension = head[0] == 0x2C, head[0] == 0x21
        is_control = is_extension & (head[1] == 0xF9) & (control == 0)
        header_bytes = tf.where(is_frame, 11 + 3 * num_colours(head[9]), 2)
        return (
            skip_pieces(position + header_bytes),
            is_frame | ~is_extension,
            tf.where(is_frame, position, frame),
            tf.where(is_control, position, control),
        )

    zero = tf.constant(0, tf.int64)
    shared_colours = num_colours(byte_values(data, 10, 1)[0])
    end, _, frame, control = tf.while_loop(
        unfinished,
        step,
        (13 + 3 * shared_colours, tf.constant(False), zero, zero),
        maximum_iterations=_MAX_GIF_BLOCKS,
    )
    descriptor = byte_values(data, frame, 10) * tf.cast(frame > 0, tf.int64)
    own_colours = num_colours(descriptor[9])
    return GifFrame(
        height=integer(descriptor[7:9], little_endian=True),
        width=integer(descriptor[5:7], little_endian=True),
        position=frame,
        end=end,
        control=control,
        palette=tf.where(own_colours > 0, frame + 10, 13),
        num_colours=tf.where(own_colours > 0, own_colours, shared_colours),
    )
