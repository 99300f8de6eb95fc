"""PCA whitening as a layer: statistics learnt from data by `adapt()`, not by gradient.

Dimension key: ``B`` batch, ``N`` rows given to `adapt`, ``D`` size of an embedding,
``U`` units kept.

Reference: Jégou, Chum, "Negative evidences and co-occurrences in image retrieval: the
benefit of PCA and whitening", ECCV 2012.
"""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

# Rows per step of `PCAWhitening.adapt` on an array: 67 MB in float64 at D = 2048.
ADAPT_ROWS = 4096


@keras.saving.register_keras_serializable(package="keras_aploss")
class PCAWhitening(keras.layers.Layer):
    """Project on the principal components and divide by a power of their variances.

        y = (x - mean) C / variance^power        C: `(D, U)`, unit columns

    Frequent, correlated directions (the look of all images of a collection) weigh
    less, rare and discriminative ones more. `power=0.5` is full whitening, equal to
    scikit-learn's `PCA(whiten=True)` up to the sign of each component; the published
    models use 0.25. Until `adapt()` is called, the layer keeps the first `U`
    coordinates as they are. Normalize the result to unit length.

    The statistics are weights (`mean` and `kernel`): they live in the `.keras` file
    and in the SavedModel. Components without variance (rank-deficient data) carry
    only rounding noise, which whitening would blow up: their outputs are zero.

    GPUs multiply with 10 bits of mantissa: whitened values were off by up to 0.03. On
    JAX the layer asks for all bits; on TensorFlow only the program can:
    `tf.config.experimental.enable_tensor_float_32_execution(False)`.

    Args:
        units: components kept, at most `D`; None keeps all `D`.
        power: exponent of the variances, in [0, 1]; 0 is a plain rotation.
        epsilon: components whose variance is at most `epsilon` times the largest
            are zeroed.
        trainable: whether training changes `mean` and `kernel` after `adapt()`.

    Input shape: `(B, D)`. Output shape: `(B, U)`.

    Raises:
        ValueError: for settings out of range, inputs not of rank 2, `units` above `D`,
            and data that `adapt` cannot use (see there).

    Example:
    >>> import numpy as np
    >>> from keras_aploss import PCAWhitening
    >>> data = np.random.default_rng(0).normal(size=(1000, 3)) * [5, 1, 0.1]
    >>> whitening = PCAWhitening(units=2)
    >>> whitening.adapt(data)
    >>> np.cov(np.array(whitening(data)), rowvar=False).round(3) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(
        self,
        units: int | None = None,
        power: float = 0.5,
        *,
        epsilon: float = 1e-8,
        trainable: bool = False,
        name: str | None = None,
        dtype: Any = None,
        **kwargs,
    ):
        # Inputs are cast in `call`: 16 bits would be off by degrees once whitened.
        super().__init__(
            name=name, dtype=dtype, trainable=trainable, autocast=False, **kwargs
        )
        if units is not None and units < 1:
            raise ValueError(
                f"Expected `units` to be at least 1, or None. Received: units={units}."
            )
        if not 0 <= power <= 1:
            message = "Expected `power` between 0 (rotation) and 1 (0.5 whitens fully)."
            raise ValueError(f"{message} Received: power={power}.")
        if not 0 <= epsilon < 1:
            raise ValueError(
                "Expected `epsilon`, a fraction of the largest variance, in [0, 1). "
                f"Received: epsilon={epsilon}."
            )
        self.units, self.power, self.epsilon = units, power, epsilon
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape):
        size = input_shape[-1]
        if self.units is not None and self.units > size:
            raise ValueError(
                f"Expected at most as many `units` as the embedding has, {size}. "
                f"Received: units={self.units}."
            )
        self.mean = self.add_weight(
            name="mean", shape=(size,), initializer="zeros", autocast=False
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, self.units or size),
            initializer=keras.initializers.Identity(),
            autocast=False,
        )

    def adapt(self, data: Any) -> None:
        """Learn mean, components and variances from embeddings, in one pass.

        Moments are summed in float64, so memory does not grow with the number of
        rows: a million rows of 2048 pass through as batches.

        Args:
            data: array `(N, D)` (a memory-mapped one too), or an iterable of such
                batches, of any number of rows each: a generator, a `tf.data.Dataset`.

        Raises:
            ValueError: if there are fewer than two rows, a batch is not `(rows, D)`,
                a value is not finite, or all rows are equal.
        """
        count, mean, scatter = _moments(_batches(data))
        if count < 2:
            raise ValueError(
                "Expected at least two rows to learn a variance from. Received: "
                f"{count}. Give `adapt` an array (N, D) or an iterable of batches."
            )
        if not self.built:
            self.build((None, len(mean)))
        if len(mean) != self.mean.shape[0]:
            raise ValueError(
                f"Expected rows of {self.mean.shape[0]} values, as the layer was built "
                f"for. Received: rows of {len(mean)}."
            )
        variance, components = np.linalg.eigh(scatter / (count - 1))  # ascending
        variance, components = variance[::-1], components[:, ::-1]  # (D,), (D, D)
        if not variance[0] > 0:
            raise ValueError(
                f"Expected rows that differ. Received: {count} equal rows; the model "
                "that made them has collapsed to one point."
            )
        # The sign is free: fix it, so that equal data give equal weights everywhere.
        columns = np.arange(len(mean))
        components = components * np.sign(
            components[np.abs(components).argmax(axis=0), columns]
        )
        kernel = pca_kernel(components, variance, self.power, self.epsilon)  # (D, D)
        self.mean.assign(mean)
        self.kernel.assign(kernel[:, : self.kernel.shape[1]])

    def call(self, inputs):
        x = ops.cast(inputs, self.variable_dtype)
        with _full_precision():
            whitened = ops.matmul(x - self.mean, self.kernel)  # (B, U)
        return ops.cast(whitened, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units or input_shape[-1])

    def get_config(self):
        settings = {"units": self.units, "power": self.power, "epsilon": self.epsilon}
        return super().get_config() | settings


def pca_kernel(components, variance, power, epsilon=0.0) -> np.ndarray:
    """Columns of a PCA over `variance^power`; 0 up to `epsilon` of the largest."""
    kept = variance > epsilon * variance.max(initial=0.0)
    return components * np.where(kept, np.where(kept, variance, 1.0) ** -power, 0.0)


def _full_precision():
    """Context in which matrix products use all bits of `float32`, on GPUs too."""
    if keras.config.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision("highest")


def _batches(data):
    if hasattr(data, "shape"):
        return (data[i : i + ADAPT_ROWS] for i in range(0, len(data), ADAPT_ROWS))
    return data


def _moments(batches):
    """Count, mean `(D,)` and centred scatter matrix `(D, D)`, merged batch by batch.

    Chan, Golub, LeVeque (1979): centring each batch before squaring keeps the digits
    that `Σ x xᵀ - N mean meanᵀ` loses when the mean is large.
    """
    count, mean, scatter = 0, None, None
    for batch in batches:
        batch = np.asarray(keras.ops.convert_to_numpy(batch), "float64")  # (rows, D)
        if batch.ndim != 2 or (mean is not None and batch.shape[1] != len(mean)):
            raise ValueError(
                f"Expected batches (rows, {'D' if mean is None else len(mean)}). "
                f"Received: a batch of shape {batch.shape}."
            )
        if not np.isfinite(batch).all():
            row = count + int(np.argmin(np.isfinite(batch).all(axis=1)))
            raise ValueError(
                f"Expected finite embeddings. Received: NaN or infinity in row {row}. "
                "Find the image that made it, or leave the row out."
            )
        if len(batch) == 0:
            continue
        batch_mean = batch.mean(axis=0)
        centred = batch - batch_mean
        if mean is None:
            count, mean, scatter = len(batch), batch_mean, centred.T @ centred
            continue
        total, shift = count + len(batch), batch_mean - mean
        weight = count * len(batch) / total
        scatter += centred.T @ centred + weight * np.outer(shift, shift)
        mean = mean + shift * (len(batch) / total)
        count = total
    return count, mean, scatter
