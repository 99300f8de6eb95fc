"""Which model embeddings are of.

Embeddings of two models lie in different spaces: their similarities are numbers like
any other, and mean nothing. The fingerprint of a model, kept beside its embeddings,
tells before anything is compared.
"""

import hashlib

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
    values = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    if not values:
        side = image_size or 64
        noise = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3))
        outputs = model(noise.astype(np.float32), training=False)
        outputs = keras.ops.convert_to_numpy(outputs)
        values = [np.round(outputs, 3) + 0.0]  # -0.0 has another byte
    for value in values:
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()
