"""Images per second and memory in the progress bar of a training."""

import pathlib
import sys
import time
from typing import Any

import keras


class Throughput(keras.callbacks.Callback):
    """Add images per second and memory to the logs of each step, for the progress bar.

    `images/s` is the mean since the epoch began, without evaluation; `GiB` the memory
    of the process, and on a GPU the most that its device has taken. Put it last: what
    other callbacks write to files or TensorBoard then stays the same from run to run.

    Args:
        batch_size: images of a batch, on all devices. With `steps_per_execution` in
            `compile`, several batches are counted at once.

    Example:
    >>> import keras, numpy as np
    >>> from keras_aploss import Throughput
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> history = model.fit(
    ...     np.ones((8, 2)), np.ones(8), batch_size=4, verbose=0,
    ...     callbacks=[Throughput(batch_size=4)],
    ... )
    >>> sorted(history.history)
    ['GiB', 'images/s', 'loss']
    """

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._seconds, self._images = 0.0, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the clock of a step."""
        self._started, self._first_batch = time.monotonic(), batch

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Add both to the logs."""
        self._seconds += time.monotonic() - self._started
        self._images += self.batch_size * self._num_batches(batch)
        if logs is not None:
            logs.update(self._values())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add both to the logs."""
        if logs is not None and self._images:
            logs.update(self._values())

    def _num_batches(self, last_batch):
        """The number of batches since the clock of the step was started."""
        num_batches = last_batch - self._first_batch + 1
        steps = (self.params or {}).get("steps")
        # The last execution may have fewer; Keras does not say so.
        return min(num_batches, steps - self._first_batch) if steps else num_batches

    def _values(self):
        speed = self._images / max(self._seconds, 1e-9)
        return {"images/s": round(speed, 1), "GiB": round(memory_gib(), 2)}


def memory_gib() -> float:
    """Memory of the process now, or the most that a GPU has taken; NaN on Windows.

    >>> 0 < memory_gib() < 1000
    True
    """
    on_device = _device_bytes()
    if on_device:
        return on_device / 2**30
    try:
        import resource
    except ImportError:  # on Windows
        return float("nan")
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        return pages * resource.getpagesize() / 2**30
    # Elsewhere the most it has taken: in bytes on macOS, in KiB on others.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _device_bytes():
    """The most that the first GPU has taken; 0 without one."""
    if keras.backend.backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return 0
