"""The TensorFlow graph of a served model: files to pixels, pixels to embeddings.

A file that cannot be decoded is an error, and the error names its position in the
batch. A TensorFlow graph has no `try`; only the datasets of `tf.data` can drop an
element that fails. So a batch is decoded as a dataset of numbered files: the numbers
that are missing in its result are those of the bad files. That costs a few milliseconds
per call, whatever the batch size.

Dimension key: B files or images in a batch, H, W height and width, S `image_size`,
D size of the embedding, U the same after whitening.
"""

import tensorflow as tf

from keras_aploss.images import MAX_PIXELS, decode_image, resize_image
from keras_aploss.serving import wire

_DECODERS = 2  # files decoded at once within a call; the server runs several calls


def decode_batch(image_bytes, image_size: int, *, max_pixels: int = MAX_PIXELS):
    """Decode and resize a batch of image files; an error names those that are bad.

    Args:
        image_bytes: (B,) string tensor, the bytes of B image files. B may be 0.
        image_size: S, side of the images that the model expects.
        max_pixels: refuse files that declare more pixels.

    Returns:
        A (B, S, S, 3) `uint8` tensor.

    Raises:
        tf.errors.InvalidArgumentError: some files cannot be decoded; the message lists
            their positions in the batch.

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

    # A dataset without elements has no batch: so a blank element follows the files.
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
        wire.unreadable_error(max_pixels, unreadable, size),
        summarize=32,
    )
    with tf.control_dependencies([] if check is None else [check]):
        return images[:-1]  # (B, S, S, 3)


def make_embed(model, scales, whitening, image_size, max_pixels):
    """Make the served function from (B, H, W, 3) pixels to (B, D) embeddings.

    It computes the same as `extract_embeddings` with these scales: scaled pixels are
    rounded, the embeddings of the scales averaged and divided by their length. Then
    they are whitened, if there is a whitening.

    Args:
        model: (B, H, W, 3) images from 0 to 255 in, unit-length embeddings out.
        scales: factors of the sides of each image.
        whitening: None, or a pair `(mean, kernel)` of shapes (D,) and (D, U).
        image_size: S, side of the blank image that stands in for an empty batch.
        max_pixels: refuse larger images.

    Returns:
        A function for `tf.function`; its result is a dictionary with the one key
        `wire.OUTPUT`.
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
        # Fused convolutions of TensorFlow fail on an empty batch: a blank image stands
        # in. (A `cond` around the model would pass each of its weights to the branch.)
        # Its size is S, since the height and width of an empty batch may be anything.
        blank = [1, image_size, image_size, 3]
        some = tf.cond(shape[0] > 0, lambda: images, lambda: tf.zeros(blank))
        some = tf.ensure_shape(some, images.shape)
        embedding = embed_some(some)[: shape[0]]
        return {wire.OUTPUT: tf.ensure_shape(embedding, [None, units])}

    return embed


def _rescale(images, scale):
    """Resize a batch as `scale_image` does an image: (B, H * scale, W * scale, 3)."""
    if scale == 1:
        return images
    sides = tf.cast(tf.shape(images)[1:3], tf.float64) * scale
    sides = tf.maximum(1, tf.cast(tf.round(sides), tf.int32))
    return tf.round(tf.image.resize(images, sides, method="bilinear", antialias=True))


def _unit_length(x):
    """Divide rows by their length; a row of zeros stays zeros instead of NaN."""
    return tf.math.l2_normalize(x, axis=1, epsilon=1e-24)
