"""A `keras.Model` that trains an encoder by multistage backpropagation.

Dimension key: ``B`` batch, ``q`` images of a chunk, ``H, W`` height and width.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops, tree

from keras_aploss.training.memory import require_shape
from keras_aploss.training.multistage import embed_in_chunks
from keras_aploss.training.reading import ChunkReader

# Inference keeps no activations: smaller chunks would save little memory.
INFERENCE_IMAGES = 32
BACKENDS = ("tensorflow", "jax")


@keras.saving.register_keras_serializable(package="keras_aploss")
class MultistageTrainer(keras.Model):
    """Train an encoder on batches of any size, in the memory of one chunk of them.

    It wraps a plain model and is compiled and fitted as that model would be, with any
    loss on embeddings, metrics, callbacks, `sample_weight`, gradient clipping, weight
    decay, regularizers, mixed precision, `jit_compile`... The gradient is that of the
    whole batch, not an approximation: the weights equal those of ordinary training, up
    to rounding. The encoder stays a plain model: save, export and serve
    `trainer.encoder`.

    Results that depend on the division into chunks:

    * Dropout and random augmentation inside the encoder draw other masks for each
      chunk, and the same ones in both passes over a chunk.
    * Batch normalization that is trained takes the statistics of each chunk, in both
      passes; its moving averages move once per step, to the mean over the chunks. So
      chunks should hold 16 images or more. (It is frozen in pretrained backbones.)
    * Losses of `add_loss` and `activity_regularizer` are averaged over the chunks.

    Time: two forward passes and one backward, 4/3 of ordinary training.

    The images of a batch need not be in memory all at once either: with `load`, `fit`
    takes *references* to images (paths, numbers), and each chunk is read in both
    passes just before it is embedded, while the chunk before is computed.

    Args:
        encoder: a built model with one input and one output, one row per image.
        num_chunks: number of chunks of a training batch. The memory that a step takes
            shrinks with it; time hardly depends on it while chunks are long enough to
            keep the processor busy.
        load: function from references `(q, ...)` to uint8 or float images `(q, H, W,
            3)`, both NumPy arrays, such as `ClassBalancedSampler.load`. It must give
            the same images both times. None: `x` are the images.
        image_shape: with `load`, the shape `(H, W, 3)` of an image.
        image_dtype: with `load`, its dtype.
        name: name of the model.
        **kwargs: as for `keras.Model`.

    Call arguments: as for the encoder, or references. Called in inference, it embeds
    chunks of at least 32 images.

    Raises:
        ValueError: if Keras runs on PyTorch, the encoder is not built or the arguments
            do not fit. (With `load` on TensorFlow, XLA cannot compile the step: it is
            left out.)

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss import APLoss, MultistageTrainer, retrieval_model
    >>> encoder = retrieval_model(units=8)
    >>> trainer = MultistageTrainer(encoder, num_chunks=4)
    >>> trainer.compile(keras.optimizers.Adam(1e-3), APLoss())
    >>> images = np.random.default_rng(0).uniform(0, 255, (64, 16, 16, 3))
    >>> history = trainer.fit(images, np.arange(64) // 4, batch_size=64, verbose=0)
    >>> encoder.predict(images, verbose=0).shape
    (64, 8)
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_chunks: int,
        *,
        load: Callable[[np.ndarray], np.ndarray] | None = None,
        image_shape: tuple[int, ...] | None = None,
        image_dtype: str = "uint8",
        name: str = "multistage_trainer",
        **kwargs,
    ):
        _check_arguments(encoder, num_chunks)
        # That of variables, so that nothing is cast here: the encoder casts what it
        # computes, and gradients of chunks are added up in full precision.
        kwargs.setdefault("dtype", encoder.variable_dtype)
        super().__init__(name=name, autocast=False, **kwargs)
        self.encoder = encoder
        self.num_chunks = int(num_chunks)
        self.image_shape = image_shape and tuple(image_shape)
        self.image_dtype = image_dtype
        self.supports_jit = encoder.supports_jit
        self._reader = None
        self.load = load
        self.built = True  # the encoder is; BackupAndRestore asks before the first step

    @property
    def load(self):
        """The function from references to images, or None. It is not saved."""
        return self._reader and self._reader.load

    @load.setter
    def load(self, load):
        _check_load(load, self.image_shape)
        if load is not None:
            require_shape(self.encoder, self.image_shape)
            self._reader = ChunkReader(load, self.image_shape, self.image_dtype)
            # XLA cannot call Python from the graphs of TensorFlow.
            self.supports_jit = keras.backend.backend() == "jax"
            if self.compiled and self.jit_compile and not self.supports_jit:
                self.jit_compile, self.train_function = False, None
        else:
            self._reader = None

    def compile(self, optimizer="rmsprop", *args, auto_scale_loss=True, **kwargs):
        """See `keras.Model.compile`; the loss is scaled if the encoder needs it."""
        optimizer = keras.optimizers.get(optimizer)
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if auto_scale_loss and not is_scaled and _uses_float16(self.encoder):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer, *args, **kwargs)

    def compile_from_config(self, config):
        """See `keras.Model.compile_from_config`, which `load_model` calls."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def build(self, input_shape):
        """Nothing to build: the encoder is."""

    def call(self, inputs, training=False):
        reader = self._reader if self._are_references(inputs) else None
        num_chunks = self.num_chunks
        if not training:
            size = ops.shape(tree.flatten(inputs)[0])[0]
            least = min if isinstance(size, int) else ops.minimum
            num_chunks = least(num_chunks, size // INFERENCE_IMAGES)
        embeddings, loss, state = embed_in_chunks(
            self.encoder, inputs, num_chunks, training=training, reader=reader
        )
        if training:
            variables = self.encoder.non_trainable_variables
            for variable, value in zip(variables, state, strict=True):
                variable.assign(value)
            # Keras adds it to the compiled loss, which has this type.
            self.add_loss(ops.cast(loss, keras.config.floatx()))
        return embeddings

    def _are_references(self, inputs):
        if self._reader is None:
            return False
        shapes = [part.shape for part in tree.flatten(inputs)]
        return len(shapes) > 1 or len(shapes[0]) != 1 + len(self.image_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_chunks": self.num_chunks,
            "image_shape": self.image_shape,
            "image_dtype": self.image_dtype,
        }

    @classmethod
    def from_config(cls, config):
        encoder = keras.saving.deserialize_keras_object(config.pop("encoder"))
        return cls(encoder, **config)


def _check_arguments(encoder, num_chunks):
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            "Expected Keras on TensorFlow or JAX. Received: "
            f"keras.backend.backend()={backend!r}. Set the environment variable "
            "KERAS_BACKEND, or train on batches that fit into memory with the encoder's"
            " own `fit`."
        )
    if not isinstance(encoder, keras.Model) or not encoder.built:
        raise ValueError(
            "Expected `encoder` to be a built keras.Model. Received: "
            f"encoder={encoder!r}. Call a subclassed model once on a small batch."
        )
    if not isinstance(num_chunks, int | np.integer) or num_chunks < 1:
        raise ValueError(
            "Expected `num_chunks` to be an integer of at least 1. Received: "
            f"num_chunks={num_chunks!r}."
        )


def _check_load(load, image_shape):
    if load is None:
        return
    sizes = image_shape or ()
    if (
        not callable(load)
        or not sizes
        or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes)
    ):
        raise ValueError(
            "Expected `load`, a function, together with the `image_shape` of what it "
            f"gives, such as (224, 224, 3). Received: load={load!r}, "
            f"image_shape={image_shape!r}."
        )


def _uses_float16(layer):
    """Whether any layer computes in float16: a saved model forgets its own policy."""
    layers = getattr(layer, "layers", [])
    return layer.compute_dtype == "float16" or any(map(_uses_float16, layers))
