"""The model and the images that embeddings depend on, in a few digits.

Embeddings of two models lie in different spaces: their similarities are numbers like
any other, and mean nothing. The fingerprint of a model, kept beside its embeddings,
tells before anything is compared; a digest of the images tells whether an interrupted
extraction is resumed with the same ones.
"""

import contextlib
import hashlib
import json

import keras
import numpy as np


def model_fingerprint(model: keras.Model, image_size: int | None = None) -> str:
    """16 hexadecimal digits that tell models, and the sizes of their images, apart.

    They depend on the shapes and values of the weights, and on `image_size`; not on
    names, or on how the model was saved. A model without weights is known by the
    embeddings of two fixed images, rounded to three digits.

    Example:
    >>> import keras
    >>> from keras_aploss import retrieval_model
    >>> from keras_aploss.embeddings import model_fingerprint
    >>> keras.utils.set_random_seed(0)
    >>> model, other = (retrieval_model("small_resnet", units=8) for _ in range(2))
    >>> model_fingerprint(model, 64) == model_fingerprint(model, 64)
    True
    >>> model_fingerprint(model, 64) in (
    ...     model_fingerprint(model, 96), model_fingerprint(other, 64)
    ... )
    False
    """
    digest = hashlib.blake2b(f"image_size={image_size}".encode(), digest_size=8)
    return _updated(digest, *_values(model, image_size)).hexdigest()


def weights_digest(model: keras.Model) -> str:
    """16 hexadecimal digits that tell models apart, whatever images they take."""
    return _updated(hashlib.blake2b(digest_size=8), *_values(model, None)).hexdigest()


def describe_images(images) -> dict:
    """Describe images and their reading in values of JSON; long lists as digests."""
    described = {"images": len(images)}
    if isinstance(images, np.ndarray):
        digest = _updated(hashlib.blake2b(digest_size=8), images)
        described["pixels"] = digest.hexdigest()
    elif hasattr(images, "paths"):
        for name, value in vars(images).items():
            is_short = value is None or isinstance(value, bool | int | float | str)
            with contextlib.suppress(TypeError):  # what JSON does not hold
                described[name] = value if is_short else digest_of(value)
    return described


def digest_of(value) -> str:
    """16 hexadecimal digits of what JSON holds."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return _updated(hashlib.blake2b(digest_size=8), text).hexdigest()


def _values(model, image_size):
    """The weights of a model; of one without any, embeddings of two fixed images."""
    values = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    if not values:
        side = image_size or 64
        noise = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3))
        outputs = model(noise.astype(np.float32), training=False)
        outputs = keras.ops.convert_to_numpy(outputs)
        values = [np.round(outputs, 3) + 0.0]  # -0.0 has another byte
    return values


def _updated(digest, *arrays):
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest
