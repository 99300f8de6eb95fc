"""What a served model computes: files to pixels, and these to embeddings.

An image that can not be decoded must not be guessed at, and one among a hundred must
be named. A TensorFlow graph has no `try`; only the datasets of `tf.data` can drop an
element that fails. So a batch is decoded as a dataset of numbered files, and the
numbers that are missing at its end are the bad ones. That costs some milliseconds a
call, once.

Dimension key: B files or images in a batch, H, W height and width, S `image_size`,
D size of the embedding, U the same after a whitening.
"""

import tensorflow as tf

from keras_aploss.images import MAX_PIXELS, decode_image, resize_image

_DECODERS = 2  # files decoded at once within a call; the server runs several calls


def decode_batch(image_bytes, image_size: int, *, max_pixels: int = MAX_PIXELS):
    """Decode and resize a batch of image files, or say which of them are bad.

    Args:
        image_bytes: (B,) string tensor, the bytes of B image files. B may be 0.
        image_size: side of the images that the model expects.
        max_pixels: refuse files that declare more pixels.

    Returns:
        A `uint8` tensor of shape (B, image_size, image_size, 3).

    Raises:
        tf.errors.InvalidArgumentError: the message lists the positions in the batch
            of all files that can not be decoded.

    Example:
        >>> import tensorflow as tf
        >>> from keras_aploss.serving import decode_batch
        >>> png = tf.io.encode_png(tf.zeros([40, 60, 3], tf.uint8))
        >>> decode_batch(tf.stack([png, png]), 32).shape
        TensorShape([2, 32, 32, 3])
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    size = tf.size(image_bytes, tf.int64)

    def read(index, contents):
        image = decode_image(contents, max_pixels=max_pixels)
        return index, resize_image(image, image_size)

    # Without an element a dataset has no batch: a last one is there in any case.
    blank = tf.zeros([image_size, image_size, 3], tf.uint8)
    last = tf.data.Dataset.from_tensors((size, blank))
    files = tf.data.Dataset.from_tensor_slices(image_bytes).enumerate()
    readable = files.map(read, num_parallel_calls=_DECODERS, deterministic=True)
    readable = readable.ignore_errors(log_warning=True)
    batch = readable.concatenate(last).batch(size + 1)
    indices, images = batch.get_single_element()
    unreadable = tf.sets.difference(tf.range(size)[None], indices[None]).values
    check = tf.debugging.Assert(
        tf.equal(tf.size(unreadable), 0),
        [
            "Expected readable JPEG, PNG, GIF or BMP files of at most "
            f"{max_pixels} pixels. Received unreadable bytes in `image_bytes` at "
            "the positions (from 0)",
            unreadable,
            "of a batch of",
            size,
            "The log of the server has the reasons. Send the other files again.",
        ],
        summarize=32,
    )
    with tf.control_dependencies([] if check is None else [check]):
        return images[:-1]  # (B, S, S, 3)


def make_embed(model, scales, whitening, image_size, max_pixels):
    """The function from (B, H, W, 3) pixels to (B, D) embeddings that is served.

    The same as `extract_embeddings` with these scales: scaled pixels are rounded, the
    embeddings of the scales are averaged and brought to unit length; a whitening, a
    pair `(mean, kernel)`, comes after that.
    """
    units = model.outputs[0].shape[1]
    if whitening is not None:
        mean, kernel = (tf.constant(array, tf.float32) for array in whitening)
        units = kernel.shape[1]

    def embed_some(images):
        parts = [
            tf.cast(model(_rescale(images, scale), training=False), tf.float32)
            for scale in scales
        ]
        embedding = parts[0]  # (B, D)
        if len(parts) > 1:
            embedding = _unit_length(tf.add_n(parts) / len(parts))
        if whitening is not None:
            embedding = _unit_length((embedding - mean) @ kernel)  # (B, U)
        return embedding

    def embed(images):
        shape = tf.shape(images, tf.int64)
        check = tf.debugging.Assert(
            shape[1] * shape[2] <= max_pixels,
            [
                f"Expected images of at most {max_pixels} pixels. Received `images` "
                "of shape",
                shape,
            ],
        )
        with tf.control_dependencies([] if check is None else [check]):
            images = tf.identity(images)
        # Fused convolutions of TensorFlow fail on a batch of no images: one stands in.
        # (A `cond` about the model would hand each of its weights to the branch.)
        # It has a size of its own: that of a batch of none may be anything.
        blank = [1, image_size, image_size, 3]
        some = tf.cond(shape[0] > 0, lambda: images, lambda: tf.zeros(blank))
        some = tf.ensure_shape(some, images.shape)
        embedding = embed_some(some)[: shape[0]]
        return {"embedding": tf.ensure_shape(embedding, [None, units])}

    return embed


def _rescale(images, scale):
    """Images as `scale_image` makes them, in a batch: (B, H * scale, W * scale, 3)."""
    if scale == 1:
        return images
    sides = tf.cast(tf.shape(images)[1:3], tf.float64) * scale
    sides = tf.maximum(1, tf.cast(tf.round(sides), tf.int32))
    return tf.round(tf.image.resize(images, sides, method="bilinear", antialias=True))


def _unit_length(x):
    """Rows divided by their length; a row of zeros stays zeros, and is no NaN."""
    return tf.math.l2_normalize(x, axis=1, epsilon=1e-24)
