"""Export of a trained model to a SavedModel that takes the bytes of image files.

A server that receives arrays leaves decoding, turning by EXIF and resizing to every
client, and each does it a little differently from training. Here they are part of the
graph, and a client sends a file as it is. To load the result, neither Python nor Keras
nor this package is needed: TensorFlow Serving, or a C program, runs it.

```
embeddings/            the path given here, `--model_base_path` of the server
    1/                 a version; the server takes the highest
        saved_model.pb
        variables/
        assets.extra/tf_serving_warmup_requests
        preprocessing.json   the image size, for who does not read the graph
        README.md      the card of the version
    2/
```

A version is never changed: the files that belong to it, such as warm-up requests and
its card, are written before it appears. The files of the server, which belong to all
versions, lie beside them (`server_files`).

Dimension key: B files or images in a batch, H, W height and width, D size of the
embedding, U the same after whitening.
"""

import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aploss.embeddings import (
    check_image_size,
    check_scales,
    check_scales_of,
    mean_and_kernel,
)
from keras_aploss.images import MAX_PIXELS, require_positive
from keras_aploss.serving import wire
from keras_aploss.serving.graph import decode_batch, make_embed

_PREPROCESSING = "preprocessing.json"  # inside a version


def export_saved_model(
    model: keras.Model,
    path,
    *,
    image_size: int,
    version: int | None = None,
    max_pixels: int = MAX_PIXELS,
    scales: Sequence[float] = (1.0,),
    whitening=None,
    extra_files: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
    """Write a model as a new version of a SavedModel that takes image files.

    The signatures:

    * `serving_default`: `image_bytes`, a (B,) string tensor of JPEG, PNG, GIF or BMP
      files of any size, gives `embedding`, a (B, D) `float32` tensor. Over REST the
      bytes travel in base64, which the server undoes for names in `_bytes`.
    * `images`: `images`, a (B, H, W, 3) `float32` tensor with values from 0 to 255,
      gives `embedding` too: for clients that have decoded images.

    With several `scales` each image is embedded at each of them, and with `whitening`
    the result is whitened, as `extract_embeddings` and `whiten_embeddings` do; both are
    part of the graph.

    The version appears under `path` complete or not at all, so that a server that
    watches the folder never loads half a model.

    Args:
        model: (B, H, W, 3) images from 0 to 255 in, unit-length embeddings out.
        path: the folder of all versions, created if it does not exist.
        image_size: side of the square to which files are resized.
        version: number of the new version. By default one more than the highest.
        max_pixels: refuse files that declare more pixels than this before anything is
            decoded, and decoded images that have more.
        scales: factors of the sides of each image.
        whitening: None, an adapted `PCAWhitening`, or a pair `(mean, kernel)` of shapes
            (D,) and (D, U).
        extra_files: contents of further files of the version, by their path in it.

    Returns:
        The folder of the version.

    Raises:
        ValueError: the model does not map images to unit-length embeddings; its input
            has a fixed size and there are several scales; the whitening has another
            size; or the version exists.
        RuntimeError: Keras does not run on TensorFlow.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> from keras_aploss import export_saved_model, retrieval_model
        >>> from keras_aploss.models import small_resnet
        >>> model = retrieval_model(small_resnet(filters=(4, 4)), units=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     version = export_saved_model(model, folder, image_size=32)
        ...     served = tf.saved_model.load(str(version))
        >>> version.name, sorted(served.signatures)
        ('1', ['images', 'serving_default'])
    """
    _require_tensorflow()
    require_positive(image_size=image_size, max_pixels=max_pixels)
    _require_embeddings(model, image_size)
    scales = check_scales(scales)
    check_scales_of(model, scales)
    whitening = _require_whitening(model, whitening)
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if version is not None:
        require_positive(version=version)
        _require_new(path, version)
    # A folder on the same file system, whose name is no number: servers ignore it.
    with tempfile.TemporaryDirectory(dir=path, prefix=".unfinished-") as unfinished:
        complete = pathlib.Path(unfinished) / "model"
        embed = make_embed(model, scales, whitening, image_size, max_pixels)
        _write(model, embed, complete, image_size, max_pixels)
        known = {"image_size": int(image_size), "max_pixels": int(max_pixels)}
        known["scales"] = scales
        files = {_PREPROCESSING: f"{json.dumps(known)}\n".encode()}
        for name, contents in (files | dict(extra_files or {})).items():
            file = complete / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contents)
        return _publish(complete, path, version)


def read_image_size(version: pathlib.Path) -> int | None:
    """The image size of a version; None if one of 0.1 does not tell it.

    Who sends pixels to the signature `images`, or opens the model again, needs it: in
    the graph it is inside of the decoding.

    Raises:
        ValueError: its `preprocessing.json` is damaged.
    """

    def parse(values):
        require_positive(image_size=values["image_size"])
        return values["image_size"]

    return read_record(version / _PREPROCESSING, "the image size of an export", parse)


def read_record(path: pathlib.Path, what: str, parse: Callable[[Any], Any]) -> Any:
    """Read a JSON file that an export has written beside the graph; None: it has not.

    Args:
        path: of the file, in the folder of a version.
        what: it tells, for the error.
        parse: makes the result of its values; what it raises is told as damage.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"Expected {what}. Received: {str(path)!r}, which cannot be read: {error}. "
            "Export the model again, or remove the file."
        ) from error


def _write(model, embed, path, image_size, max_pixels):
    files = tf.TensorSpec([None], tf.string, name=wire.FILES_INPUT)
    pixel_shape = [None, *model.inputs[0].shape[1:]]
    pixels = tf.TensorSpec(pixel_shape, tf.float32, name=wire.PIXELS_INPUT)

    def decode(image_bytes):
        images = decode_batch(image_bytes, image_size, max_pixels=max_pixels)
        return tf.cast(images, tf.float32)

    # Traced once, here: otherwise each signature would trace its parts again.
    decode_once = _traced(decode, files)
    embed_once = _traced(embed, pixels)

    def embed_files(image_bytes):
        return embed_once(decode_once(image_bytes))

    # `keras.export.ExportArchive` would write each variable twice, which a server then
    # loads twice, and trace a function of every layer, which takes as long as all else.
    served = tf.Module()
    served.weights = sorted(embed_once.variables, key=lambda variable: variable.name)
    signatures = {
        wire.FILES_SIGNATURE: _traced(embed_files, files),
        wire.PIXELS_SIGNATURE: embed_once,
    }
    tf.saved_model.save(served, str(path), signatures=signatures)


def _traced(function, spec):
    traced = tf.function(function, input_signature=[spec], autograph=False)
    return traced.get_concrete_function()


def _publish(complete, path, version):
    """Rename a finished folder to its number, the next one unless it is given."""
    if version is not None:
        _require_new(path, version)
        return complete.rename(path / str(version))
    while True:
        number = max(_versions(path), default=0) + 1
        try:
            return complete.rename(path / str(number))
        except OSError:
            # Another export may have taken the number; any other error is real.
            if number not in _versions(path):
                raise


def _versions(path):
    """The numbers of the versions in a folder; servers read 007 as 7."""
    names = [child.name for child in path.iterdir()]
    return {int(name) for name in names if name.isdecimal()}


def _require_new(path, version):
    if version in _versions(path):
        raise ValueError(
            f"Expected a version that does not exist in {path}. Received: "
            f"version={version}. A server may be using it: leave out `version` for "
            "the next number, or remove the folder first."
        )


def _require_tensorflow():
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            "Expected Keras to run on TensorFlow, the only backend that writes a "
            f"SavedModel which decodes images. Received: backend={backend!r}. Save the "
            "model with `model.save('model.keras')`, then load it with "
            "`keras.saving.load_model` in a process started with "
            "KERAS_BACKEND=tensorflow and export it there."
        )


def _require_embeddings(model, image_size):
    """Check the shapes of a model, and the length of an embedding that it makes."""
    inputs, outputs = (
        getattr(model, name, None) or [] for name in ("inputs", "outputs")
    )
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            "Expected a built model with one input of shape (B, H, W, 3). Received: "
            f"inputs={[tuple(tensor.shape) for tensor in inputs]}."
        )
    check_image_size(model, image_size)
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "Expected a model with one output of shape (B, D). Received: outputs="
            f"{[tuple(tensor.shape) for tensor in outputs]}."
        )
    noise = np.random.default_rng(0).uniform(0, 255, (1, image_size, image_size, 3))
    embedding = model(noise.astype(np.float32), training=False)
    length = float(np.linalg.norm(keras.ops.convert_to_numpy(embedding)))
    if not abs(length - 1) < 0.01:  # a NaN is not near 1 either
        raise ValueError(
            "Expected embeddings of unit length. Received: an embedding of length "
            f"{length:.3g} for an image of noise. End the model with "
            "`keras.layers.UnitNormalization()`."
        )


def _require_whitening(model, whitening):
    if whitening is None:
        return None
    mean, kernel = mean_and_kernel(whitening)
    units = model.outputs[0].shape[1]
    fits = mean.shape == (units,) and kernel.ndim == 2 and kernel.shape[0] == units
    if not fits or not (np.isfinite(mean).all() and np.isfinite(kernel).all()):
        raise ValueError(
            f"Expected a finite whitening (mean, kernel) of {units} units, those of "
            f"the model. Received: mean.shape={mean.shape}, "
            f"kernel.shape={kernel.shape}."
        )
    return mean, kernel
