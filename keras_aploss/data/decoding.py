"""Bytes to pixels, in TensorFlow operations only.

A model trained on pixels from one decoder and served with another loses precision
in silence: JPEG decoders differ by several grey levels, resizing filters by more,
and a phone stores a portrait as a landscape with a note "turn me" in its EXIF
header that most decoders ignore. Everything here is therefore made of TensorFlow
operations: the same code fills a training batch and travels inside the SavedModel.

What is read, recognised by content and never by file name:

* JPEG, turned upright as its EXIF orientation says. The exact integer transform
  (`INTEGER_ACCURATE`) gives the very pixels of Pillow; the default one is off by 6.
  CMYK is converted.
* PNG with 1 to 16 bits, grey, colour or palette; transparency over white.
* GIF, its first frame, as stored.
* BMP with 8 (palette), 24 or 32 bits, not compressed.

WebP is refused: its operation is absent from older TensorFlow releases, where one
unknown operation prevents the whole SavedModel from loading.

The size of an image is read from its header and bounded *before* anything is
decoded: 10 kB of PNG can declare a billion pixels.

Dimension key: H, W height and width in pixels, S `image_size`.
"""

import tensorflow as tf

MAX_PIXELS = 100_000_000  # 300 MB once decoded

_MAX_SEGMENTS = 1024  # of a JPEG header: some 10 in practice
_EXIF = tuple(b"Exif\0\0")
_ORIENTATION_TAG = 0x0112
_SHORT = 3  # the TIFF code of a 16-bit integer
_BARE_MARKERS = (0x00, 0x01, *range(0xD0, 0xD9))  # JPEG markers without a length
_FRAME_MARKERS = tuple(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1


def decode_image(contents, *, max_pixels=MAX_PIXELS):
    """Decodes a JPEG, PNG, GIF or BMP file to upright RGB pixels.

    Made of TensorFlow operations, so that it runs eagerly, in a `tf.function`, in
    `tf.data` and in a served model alike.

    Args:
        contents: the bytes of the file: Python `bytes` or a scalar string tensor.
        max_pixels: refuse images whose header declares more pixels than this.

    Returns:
        A `uint8` tensor of shape (H, W, 3).

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image, are truncated,
            or declare more than `max_pixels` pixels.

    Example:
        >>> red = tf.constant([[[255, 0, 0]] * 4] * 2, tf.uint8)
        >>> decode_image(tf.io.encode_png(red)).shape
        TensorShape([2, 4, 3])
    """
    contents = tf.convert_to_tensor(contents, tf.string)
    decoders = [_decode_jpeg, _decode_png, _decode_gif, _decode_bmp, _refuse]
    signatures = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"]
    matches = [
        tf.equal(tf.strings.substr(contents, 0, len(signature)), signature)
        for signature in signatures
    ]
    first_match = tf.argmax(tf.stack([*matches, True]), output_type=tf.int32)

    def branch(decoder):
        return lambda: decoder(contents, tf.cast(max_pixels, tf.int64))

    image = tf.switch_case(first_match, [branch(decoder) for decoder in decoders])
    return tf.ensure_shape(image, (None, None, 3))


def resize_image(image, image_size):
    """Resizes the central square of an image to `image_size` x `image_size`.

    The same as scaling the shorter side to `image_size` and cropping the middle, but
    the crop comes first: a panorama never grows before it is cut, and no image, not
    even one of 1 x 5000 pixels, can ask for more memory than its square needs.

    The filter is an antialiased triangle ("bilinear"): Pillow gives the same pixels
    to one grey level, and unlike a cubic filter it can not overshoot, so that the
    rounding to integers loses nothing to clipping.

    Args:
        image: (H, W, 3) `uint8` tensor or array.
        image_size: side of the result, an integer or a scalar tensor.

    Returns:
        A `uint8` tensor of shape (image_size, image_size, 3).

    Example:
        >>> resize_image(tf.zeros([1, 5000, 3], tf.uint8), 32).shape
        TensorShape([32, 32, 3])
    """
    image = tf.convert_to_tensor(image)
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return _resample(square, (image_size, image_size))  # (S, S, 3)


def resize_shorter_side(image, image_size, *, max_pixels=MAX_PIXELS):
    """Resizes an image so that its shorter side is `image_size`; nothing is cut.

    Args:
        image: (H, W, 3) `uint8` tensor or array.
        image_size: length of the shorter side of the result.
        max_pixels: refuse a result with more pixels: a strip of 1 x 5000 pixels
            would grow to 224 x 1,120,000.

    Returns:
        A `uint8` tensor, (image_size, W', 3) or (H', image_size, 3).

    Example:
        >>> resize_shorter_side(tf.zeros([60, 90, 3], tf.uint8), 32).shape
        TensorShape([32, 48, 3])
    """
    image = tf.convert_to_tensor(image)
    shape = tf.cast(tf.shape(image)[:2], tf.int64)
    size, side = tf.cast(image_size, tf.int64), tf.reduce_min(shape)
    target = (shape * size + side // 2) // side
    check = _check(
        tf.reduce_prod(target) <= tf.cast(max_pixels, tf.int64),
        "Expected an image that is less elongated: with its shorter side resized "
        "it would have more pixels than `max_pixels`. Crop it. Received a shape of",
        shape,
    )
    with tf.control_dependencies(check):
        return _resample(image, tf.cast(tf.identity(target), tf.int32))


def _resample(image, size):
    resized = tf.image.resize(image, size, method="bilinear", antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)


def _check(condition, message, *values):
    """The list of operations that must run before what depends on `condition`."""
    check = tf.debugging.Assert(condition, [message, *values], summarize=16)
    return [] if check is None else [check]


def _check_pixels(contents, height, width, max_pixels):
    """`contents`, once the declared size of the image is known to be bearable."""
    pixels = height * width
    check = _check(
        (height > 0) & (width > 0) & (pixels <= max_pixels),
        "Expected an image of 1 to `max_pixels` pixels. Received a header that "
        "declares (height, width, max_pixels) =",
        tf.stack([height, width, max_pixels]),
    )
    with tf.control_dependencies(check):
        return tf.identity(contents)


def _bytes(data, start, size):
    """`size` bytes from `start` as int64; beyond the end, the last byte repeats."""
    position = start + tf.range(tf.cast(size, tf.int64))
    last = tf.size(data, tf.int64) - 1
    return tf.cast(tf.gather(data, tf.clip_by_value(position, 0, last)), tf.int64)


def _integer(digits, *, little_endian=False):
    """The integer that the bytes on the last axis of `digits` spell."""
    length = digits.shape[-1]
    powers = tf.constant([256**i for i in reversed(range(length))], tf.int64)
    ordered = tf.where(little_endian, tf.reverse(digits, [-1]), digits)
    return tf.reduce_sum(ordered * powers, axis=-1)


def _refuse(contents, max_pixels):
    check = _check(
        False,
        "Expected the bytes of a JPEG, PNG, GIF or BMP image. Received bytes that "
        "start with",
        tf.io.encode_base64(tf.strings.substr(contents, 0, 12)),
        "(base64). Convert other formats first.",
    )
    with tf.control_dependencies(check):
        return tf.zeros([1, 1, 3], tf.uint8)


def _decode_jpeg(contents, max_pixels):
    data = tf.io.decode_raw(contents, tf.uint8)
    height, width, exif_start, exif_end = _walk_jpeg_header(data)
    contents = _check_pixels(contents, height, width, max_pixels)
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    return _turn_upright(image, _exif_orientation(data, exif_start, exif_end))


def _walk_jpeg_header(data):
    """Steps from segment to segment up to the first scan.

    Returns:
        Four int64 scalars: height and width that the frame declares (0 without a
        frame), and where the TIFF block of the EXIF segment starts and ends (0, 0
        without EXIF).
    """
    size = tf.size(data, tf.int64)

    def unfinished(position, finished, *_):
        return (position < size) & ~finished

    def step(position, finished, height, width, exif_start, exif_end):
        head = _bytes(data, position, 10)  # FF, marker, length (2), first 6 of body
        marker = head[1]
        bare = tf.reduce_any(marker == _BARE_MARKERS)
        is_marker = (head[0] == 0xFF) & (marker != 0xFF)  # FF FF: the first pads
        is_segment = is_marker & ~bare
        end = position + 2 + tf.maximum(_integer(head[2:4]), 2)
        is_frame = is_segment & tf.reduce_any(marker == _FRAME_MARKERS) & (height == 0)
        is_exif = is_segment & (marker == _APP1) & (exif_end == 0)
        is_exif &= tf.reduce_all(head[4:] == _EXIF)
        after = tf.where(is_marker, position + 2, position + 1)
        return (
            tf.where(is_segment, end, after),
            is_marker & ((marker == _SCAN) | (marker == _END)),
            tf.where(is_frame, _integer(head[5:7]), height),
            tf.where(is_frame, _integer(head[7:9]), width),
            tf.where(is_exif, position + 10, exif_start),
            tf.where(is_exif, tf.minimum(end, size), exif_end),
        )

    zero = tf.constant(0, tf.int64)
    start = (zero + 2, tf.constant(False), zero, zero, zero, zero)
    found = tf.while_loop(unfinished, step, start, maximum_iterations=_MAX_SEGMENTS)
    return found[2:]


def _exif_orientation(data, start, end):
    """The orientation, 1 to 8, that a TIFF block gives; 1 if it is malformed."""
    header = _bytes(data, start, 8)
    little_endian = header[0] == ord("I")
    order_known = tf.reduce_all(header[:2] == ord("I")) | tf.reduce_all(
        header[:2] == ord("M")
    )
    valid = order_known & (_integer(header[2:4], little_endian=little_endian) == 42)
    directory = start + _integer(header[4:8], little_endian=little_endian)
    declared = _integer(_bytes(data, directory, 2), little_endian=little_endian)
    # An entry outside the segment is not there, whatever the block declares.
    count = tf.clip_by_value((end - directory - 2) // 12, 0, declared)
    entries = tf.reshape(_bytes(data, directory + 2, count * 12), [-1, 12])
    tag = _integer(entries[:, 0:2], little_endian=little_endian)  # (count,)
    kind = _integer(entries[:, 2:4], little_endian=little_endian)
    value = _integer(entries[:, 8:10], little_endian=little_endian)
    is_orientation = (tag == _ORIENTATION_TAG) & (kind == _SHORT) & valid
    orientation = tf.reduce_max(tf.where(is_orientation, value, 0))
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)


def _turn_upright(image, orientation):
    """Undoes an EXIF orientation: at most a transposition, then mirrors."""

    def turn():
        turned = tf.cond(
            orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image
        )
        mirror_rows = tf.reduce_any(orientation == [3, 4, 7, 8])
        mirror_columns = tf.reduce_any(orientation == [2, 3, 6, 7])
        axes = tf.boolean_mask([0, 1], tf.stack([mirror_rows, mirror_columns]))
        return tf.reverse(turned, axes)

    return tf.cond(orientation > 1, turn, lambda: image)


def _decode_png(contents, max_pixels):
    header = _bytes(
        tf.io.decode_raw(tf.strings.substr(contents, 0, 26), "uint8"), 0, 26
    )
    height, width = _integer(header[20:24]), _integer(header[16:20])
    contents = _check_pixels(contents, height, width, max_pixels)
    depth, colour_type = header[24], header[25]

    def opaque():
        image = tf.io.decode_png(contents, channels=3)
        # TensorFlow leaves grey levels of 1, 2 and 4 bits at 0..1, 0..3 and 0..15.
        levels = tf.bitwise.left_shift(tf.constant(1, tf.int64), depth)
        is_narrow = (colour_type == 0) & (depth < 8)
        return image * tf.cast(tf.where(is_narrow, 255 // (levels - 1), 1), tf.uint8)

    def over_white():
        image = tf.cast(tf.io.decode_png(contents, channels=4), tf.uint16)
        colour, alpha = image[..., :3], image[..., 3:]
        # At most 255 * 255 + 127: 16 bits hold it, at half the memory of floats.
        blended = colour * alpha + 255 * (255 - alpha)
        return tf.cast((blended + 127) // 255, tf.uint8)

    return tf.cond(colour_type >= 3, over_white, opaque)


def _decode_gif(contents, max_pixels):
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _decode_bmp(contents, max_pixels):
    return tf.io.decode_bmp(contents, channels=3)
