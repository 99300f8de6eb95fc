"""Warm-up requests: a server answers them before it reports that it is ready.

The first call of a TensorFlow graph takes many times as long as the others: kernels are
chosen, memory is allocated, threads start. Without warm-up the first user of each new
version waits for that. TensorFlow Serving reads requests from
`assets.extra/tf_serving_warmup_requests` inside a version, a TFRecord file of
`PredictionLog` messages, and runs them while the old version still answers.

Each batch size is prepared separately. So there are requests of each batch size that is
expected, for both signatures, with JPEG and PNG files among them.

The messages are the official ones, of `tensorflow-serving-api` (extra `serving`). It
needs TensorFlow of the same version number, and pip chooses the one that fits.

Dimension key: B images in a request, S `image_size`.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_aploss.serving import wire

_PATH = "assets.extra/tf_serving_warmup_requests"  # inside a version
_BATCH_SIZES = (1, 16)  # a single file, and the default of `EmbeddingClient`


def warmup_files(
    image_size: int, name: str, *, batch_sizes: Sequence[int] = _BATCH_SIZES
) -> dict[str, bytes]:
    """The file of warm-up requests of an exported model.

    Args:
        image_size: S, side of the images that the model sees. The image files have
            twice that side, so that resizing is warmed up as well.
        name: name under which the model is served.
        batch_sizes: the B of the requests.

    Returns:
        One item, for `export_saved_model(..., extra_files=...)`: the path inside the
        version, and the contents of a TFRecord file. It has two records for each batch
        size: files for `serving_default`, and pixels for `images`.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed.
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
                    (wire.FILES_SIGNATURE, wire.FILES_INPUT, files),
                    (wire.PIXELS_SIGNATURE, wire.PIXELS_INPUT, pixels),
                ):
                    request = predict_pb2.PredictRequest()
                    request.model_spec.name = name
                    request.model_spec.signature_name = signature
                    tensor = tf.make_tensor_proto(values[:size])
                    request.inputs[key].CopyFrom(tensor)
                    log = prediction_log_pb2.PredictionLog()
                    log.predict_log.request.CopyFrom(request)
                    writer.write(log.SerializeToString())
        return {_PATH: path.read_bytes()}


def _images(image_size, count):
    """Synthetic images: B files, JPEG and PNG in turn, and (B, S, S, 3) pixels."""
    rng = np.random.default_rng(0)
    # Interpolated from 5 x 5 colours: smooth like a photo, so the files are small.
    coarse = rng.integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
    side = 2 * image_size
    smooth = tf.image.resize(coarse, (side, side), method="bilinear")
    smooth = tf.cast(tf.round(smooth), tf.uint8)
    encoders = tf.io.encode_jpeg, tf.io.encode_png
    files = [encoders[i % 2](image).numpy() for i, image in enumerate(smooth)]
    pixels = tf.image.resize(coarse, (image_size, image_size)).numpy()
    return files, pixels
