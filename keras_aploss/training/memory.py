"""Choose the number of chunks of a batch, such that one fits a given memory.

Dimension key: ``B`` batch, ``n`` chunks, ``H, W`` height and width of the images.
"""

import math
import re
from typing import Any

import keras
from keras import tree

# Peak memory by the bytes of all outputs of layers: gradients of some of them and
# buffers of operations exist at the same time. See benchmarks/bench_multistage.py.
OVERHEAD = 1.5


def activation_bytes(model: keras.Model, image_shape: tuple[int, ...]) -> int:
    """Bytes of the outputs of all layers, for one image.

    It estimates what a training step keeps for its backward pass: a single layer may
    keep more than its output, or nothing.

    Args:
        model: a functional model with one input.
        image_shape: `(H, W, 3)`.

    Example:
    >>> import keras
    >>> from keras_aploss.training import activation_bytes
    >>> layers = [keras.layers.Conv2D(5, 1), keras.layers.GlobalMaxPooling2D()]
    >>> model = keras.Sequential([keras.Input((None, None, 3)), *layers])
    >>> activation_bytes(model, (8, 8, 3)) == 8 * 8 * 5 * 4 + 5 * 4
    True
    """
    require_shape(model, image_shape)
    total = 0

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal total
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.Model):
            total += activation_bytes(layer, tuple(args[0].shape[1:]))
        else:
            total += sum(_bytes_of(output) for output in tree.flatten(outputs))
        return outputs

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    # The copy is called on images of that size, and forgotten.
    images = keras.Input(image_shape, dtype=model.inputs[0].dtype)
    images = tree.pack_sequence_as(model.input, [images])
    keras.models.clone_model(model, input_tensors=images, call_function=call)
    return total


def require_shape(model: keras.Model, image_shape: tuple[int, ...]) -> None:
    """Refuse images of another shape than a model is built for."""
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else image_shape
    fits = len(shape) == len(image_shape) and all(
        own in (None, side) for own, side in zip(shape, image_shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Expected image_shape={shape}, that of the input of {model.name!r}. "
            f"Received: image_shape={tuple(image_shape)}."
        )


def _bytes_of(output):
    bits = re.search(r"\d+$", output.dtype)  # none in "bool"
    sizes = [size or 1 for size in output.shape[1:]]
    return math.prod(sizes) * (int(bits[0]) // 8 if bits else 1)


def choose_num_chunks(
    encoder: keras.Model,
    image_shape: tuple[int, ...],
    batch_size: int,
    memory_gib: float,
    *,
    num_devices: int = 1,
) -> int:
    """Return the least number of chunks whose activations fit the memory of a device.

    Args:
        encoder: a functional model with one input.
        image_shape: `(H, W, 3)`.
        batch_size: images of a batch, `B`, on all devices together.
        memory_gib: memory for activations on each device.
        num_devices: number of devices that a batch is divided over.

    Returns:
        `n`, which divides the batch evenly if there is such a number up to twice the
        least, or, for several devices, any.

    Raises:
        ValueError: if the activations of a single image take more.

    Example:
    >>> from keras_aploss import retrieval_model
    >>> from keras_aploss.training import choose_num_chunks
    >>> choose_num_chunks(retrieval_model(units=8), (64, 64, 3), 4096, memory_gib=1.0)
    16
    """
    needed = OVERHEAD * activation_bytes(encoder, image_shape)
    fitting = memory_gib * 2**30 / needed  # may be infinite
    if not fitting >= 1:
        raise ValueError(
            f"Expected memory_gib >= {needed / 2**30:.2g}, what the activations of one "
            f"image of {image_shape} take. Received: memory_gib={memory_gib:g}. Grant "
            "more memory, or make the images smaller."
        )
    per_device = -(-batch_size // num_devices)
    least = -(-per_device // int(min(fitting, per_device)))
    most = per_device if num_devices > 1 else min(2 * least, per_device)
    for num_chunks in range(least, most + 1):
        if batch_size % (num_chunks * num_devices) == 0:
            return num_chunks
    return least
