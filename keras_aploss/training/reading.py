"""Read the images of a chunk just before it is embedded, from a compiled step.

A batch of 4,096 images of 800 x 800 takes 7.9 GB. Here only *references* to them
(numbers, paths) are handed to the step, and each chunk is read when it is embedded,
twice per step. While a chunk is computed, the next one is read.

Dimension key: ``B`` batch, ``n`` chunks, ``q`` images of a chunk.
"""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

NUM_PASSES = 2
# One chunk is read ahead per device; steps that failed leave others behind.
MAX_COMING = 64


class ChunkReader:
    """Reads chunks of images ahead and returns them as tensors of TensorFlow or JAX.

    Args:
        load: function from references `(q, ...)` to images `(q, *shape)`, NumPy arrays.
        shape: shape of an image.
        dtype: dtype of the images.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.training.reading import ChunkReader
    >>> photos = np.zeros((10, 8, 8, 3), "uint8")
    >>> reader = ChunkReader(lambda numbers: photos[numbers], (8, 8, 3), "uint8")
    >>> reader.read_chunk(np.arange(10), c=1, num_chunks=3, pass_number=2).shape
    (3, 8, 8, 3)
    """

    def __init__(
        self, load: Callable[[Any], np.ndarray], shape: tuple[int, ...], dtype: str
    ):
        self.load = load
        self.spec = keras.KerasTensor((None, *shape), dtype)
        self._coming: dict[Any, concurrent.futures.Future] = {}
        self._lock = threading.Lock()
        self._threads = concurrent.futures.ThreadPoolExecutor(
            thread_name_prefix="keras_aploss_chunks"
        )

    def read(self, x: Any, chunks: Any, c: Any, is_long: bool, pass_number: int) -> Any:
        """The images of chunk `c` as a tensor `(q, *shape)`.

        Args:
            x: all references of the batch.
            chunks: a `Chunks`.
            c: number of the chunk, a tensor.
            is_long: whether it has one image more than the last chunk.
            pass_number: 1 or 2; after the last chunk of pass 2, none is read ahead.
        """
        if keras.backend.backend() == "jax":
            return self._read_on_jax(x, chunks, c, is_long, pass_number)
        import tensorflow as tf

        parts = tree.flatten(x)

        def host(c, num, *parts):
            references = tree.pack_sequence_as(x, parts)
            return self.read_chunk(references, int(c), int(num), pass_number)

        images = tf.numpy_function(host, [c, chunks.num, *parts], self.spec.dtype)
        images.set_shape(self.spec.shape)
        return images

    def _read_on_jax(self, x, chunks, c, is_long, pass_number):
        import jax

        def read_part(x, c):
            """Read the images of a chunk that are on one device."""

            def host(x, c):
                x = tree.map_structure(np.asarray, x)
                return self.read_chunk(x, int(c), chunks.num, pass_number)

            size = tree.flatten(x)[0].shape[0] // chunks.num + is_long
            shape = jax.ShapeDtypeStruct((size, *self.spec.shape[1:]), self.spec.dtype)
            return jax.pure_callback(host, shape, x, c)

        distribution = keras.distribution.distribution()
        if distribution is None:
            return read_part(x, c)
        mesh = distribution.device_mesh.backend_mesh
        devices = mesh.shape[distribution.batch_dim_name]
        if chunks.size % (devices * chunks.num):
            raise ValueError(
                "Expected a batch that the chunks on all devices divide evenly, to be "
                f"read chunk by chunk. Received: a batch of {chunks.size} images, "
                f"num_chunks={chunks.num}, {devices} devices. Take a batch of "
                f"{-(-chunks.size // (devices * chunks.num)) * devices * chunks.num}."
            )
        rows = jax.sharding.PartitionSpec(distribution.batch_dim_name)
        return jax.shard_map(
            read_part,
            mesh=mesh,
            in_specs=(rows, jax.sharding.PartitionSpec()),
            out_specs=rows,
            check_vma=False,
        )(x, c)

    def read_chunk(
        self, x: Any, c: int, num_chunks: int, pass_number: int
    ) -> np.ndarray:
        """Return the images of chunk `c` of references `x`; start to read the next."""
        wanted = _of_chunk(x, c, num_chunks)
        with self._lock:
            future = self._coming.pop(_key(wanted), None)
        try:
            images = self._load(wanted) if future is None else future.result()
        except Exception:
            with self._lock:
                self._coming.clear()  # of a step that will not go on
            raise
        if (c + 1, pass_number) != (num_chunks, NUM_PASSES):
            following = _of_chunk(x, (c + 1) % num_chunks, num_chunks)
            with self._lock:
                if len(self._coming) >= MAX_COMING:
                    self._coming.pop(next(iter(self._coming)))
                future = self._threads.submit(self._load, following)
                self._coming[_key(following)] = future
        return images

    def _load(self, references):
        shape = len(tree.flatten(references)[0]), *self.spec.shape[1:]
        if shape[0] == 0:
            return np.zeros(shape, self.spec.dtype)
        images = np.asarray(self.load(references))
        if images.shape != shape:
            raise ValueError(
                f"Expected `load` to give images of shape {shape}, one per reference. "
                f"Received: shape {images.shape}. Give their true `image_shape`, or "
                "resize them in `load`."
            )
        return images.astype(self.spec.dtype, copy=False)


def _of_chunk(x, c, num_chunks):
    return tree.map_structure(lambda part: np.asarray(part)[c::num_chunks], x)


def _key(references):
    # Not `tobytes()`: of paths, which are objects, that gives their addresses.
    return tuple(tuple(part.ravel().tolist()) for part in tree.flatten(references))
