"""Requests that a server answers before it says that it is ready.

The first call of a TensorFlow graph takes many times as long as the others: kernels are
chosen, memory is taken, threads start. Without warm-up the first user of each new
version waits for that. TensorFlow Serving reads requests from
`assets.extra/tf_serving_warmup_requests` inside a version, a TFRecord file of
`PredictionLog` messages, and runs them while the old version still answers.

Shapes matter: a batch of another size is prepared anew. So there are requests of each
batch size that is expected, for both signatures, with JPEG and PNG files among them.

The messages are the official ones, of `tensorflow-serving-api` (extra `serving`). It
installs beside TensorFlow and replaces nothing: it needs the TensorFlow of its own
number, and pip takes the one that fits.

Dimension key: B images in a request, S `image_size`.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

PATH = "assets.extra/tf_serving_warmup_requests"  # within a version
BATCH_SIZES = (1, 16)  # a person's request, and that of `EmbeddingClient`


def warmup_records(
    image_size: int, name: str, *, batch_sizes: Sequence[int] = BATCH_SIZES
) -> bytes:
    """The warm-up requests of an exported model: the contents of a TFRecord file.

    They go into a version by
    `export_saved_model(..., extra_files={warmup.PATH: warmup_records(...)})`.

    Args:
        image_size: S, side of the images that the model sees. The files are of twice
            that size, so that resizing is warmed as well.
        name: of the model, which a request has to name.
        batch_sizes: the B of the requests.

    Returns:
        Two records for each batch size: one of files, for `serving_default`, and one
        of pixels, for `images`.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed; says how to.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "Expected `tensorflow-serving-api` for warm-up requests. Received: "
            f'{error}. Install it: pip install "keras_aploss[serving]"'
        ) from error
    files, pixels = _images(image_size, max(batch_sizes))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "records"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for size in batch_sizes:
                for signature, key, values in (
                    ("serving_default", "image_bytes", files),
                    ("images", "images", pixels),
                ):
                    request = predict_pb2.PredictRequest()
                    request.model_spec.name = name
                    request.model_spec.signature_name = signature
                    tensor = tf.make_tensor_proto(values[:size])
                    request.inputs[key].CopyFrom(tensor)
                    log = prediction_log_pb2.PredictionLog()
                    log.predict_log.request.CopyFrom(request)
                    writer.write(log.SerializeToString())
        return path.read_bytes()


def _images(image_size, count):
    """Drawn pictures as files of two formats, and as (B, S, S, 3) pixels."""
    rng = np.random.default_rng(0)
    # Few colours, far apart: as smooth as a photo, and as small once compressed.
    coarse = rng.integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
    side = 2 * image_size
    smooth = tf.image.resize(coarse, (side, side), method="bilinear")
    smooth = tf.cast(tf.round(smooth), tf.uint8)
    encoders = tf.io.encode_jpeg, tf.io.encode_png
    files = [encoders[i % 2](image).numpy() for i, image in enumerate(smooth)]
    pixels = tf.image.resize(coarse, (image_size, image_size)).numpy()
    return files, pixels
