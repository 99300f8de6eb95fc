"""The devices of a run: one, all of this machine, or those of several hosts.

On several devices the images of a batch are divided over them, and the loss is that of
the whole batch. With TensorFlow one process drives all devices of a machine. With JAX
each host runs the same command, reads its own part of every batch, and the first one
writes the run folder.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import keras


class Devices(NamedTuple):
    """The devices on which a run trains.

    Attributes:
        process: number of this process; the first, 0, writes the run folder.
        num_processes: number of processes, one per host.
        num_devices: number of devices of all processes.
        names: a description of the devices, for the log.
    """

    process: int
    num_processes: int
    num_devices: int
    names: str


@contextlib.contextmanager
def use_devices(strategy: str) -> Iterator[Devices]:
    """Build and train models on the devices of a strategy inside the context.

    Args:
        strategy: `RunSettings.strategy`.

    Raises:
        ValueError: if the backend of Keras cannot do it.

    Example:
    >>> from keras_aploss.runs.devices import use_devices
    >>> with use_devices("one_device") as devices:
    ...     devices.num_devices
    1
    """
    backend = keras.backend.backend()
    needed = {"mirrored": "tensorflow", "data_parallel": "jax"}.get(strategy, backend)
    if backend != needed:
        raise ValueError(
            f"Expected KERAS_BACKEND={needed} for strategy={strategy!r}. Received: "
            f"KERAS_BACKEND={backend}. Set it; a new run can take another strategy."
        )
    if num_hosts() > 1 and strategy != "data_parallel":
        raise ValueError(
            "Expected `--strategy data_parallel` for several hosts. Received: "
            f"strategy={strategy!r} and KERAS_DISTRIBUTION_NUM_PROCESSES="
            f"{num_hosts()}: each host would train alone."
        )
    if strategy == "one_device":
        yield Devices(0, 1, 1, "one device")
    elif strategy == "mirrored":
        _refuse_several_hosts()
        import tensorflow as tf

        mirrored = tf.distribute.MirroredStrategy()
        count = mirrored.num_replicas_in_sync
        with mirrored.scope():
            yield Devices(0, 1, count, f"{count} devices of this machine")
    else:
        yield from _data_parallel()


def _refuse_several_hosts():
    """`MultiWorkerMirroredStrategy` fails inside `fit` of Keras 3 (keras#20585)."""
    try:
        workers = json.loads(os.environ.get("TF_CONFIG") or "{}")["cluster"]["worker"]
    except (ValueError, KeyError, TypeError):
        return
    if len(workers) > 1:
        raise ValueError(
            "Expected one host with TensorFlow: Keras 3 does not train under "
            "MultiWorkerMirroredStrategy. Received: a TF_CONFIG with "
            f"{len(workers)} workers. For several hosts set KERAS_BACKEND=jax and take "
            "`--strategy data_parallel`."
        )


def _data_parallel():
    import jax

    several = num_hosts() > 1
    if several:
        keras.distribution.initialize()
    kept = keras.distribution.distribution()
    devices = keras.distribution.list_devices()
    # A PyDataset is not divided over the hosts by Keras: the sampler yields a part.
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    )
    count, hosts = len(devices), jax.process_count()
    names = f"{count} devices of {hosts} hosts" if several else f"{count} devices"
    try:
        yield Devices(jax.process_index(), hosts, count, names)
    finally:
        keras.distribution.set_distribution(kept)
    if several:
        # Otherwise the other hosts wait at their end, for five minutes only.
        jax.distributed.shutdown()


def num_hosts() -> int:
    """Number of processes that train together, from the environment of Keras."""
    value = os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES") or "1"
    if not value.isdecimal():
        raise ValueError(
            "Expected KERAS_DISTRIBUTION_NUM_PROCESSES to be a number. Received: "
            f"{value!r}."
        )
    return int(value)


def is_first_host() -> bool:
    """Whether this process is the first of those that train together, or alone."""
    return (os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID") or "0").strip("0") == ""


def require_one_host() -> None:
    """Raise if several hosts would each choose a run folder of their own."""
    if num_hosts() > 1:
        raise ValueError(
            f"Expected `--run-dir` for {num_hosts()} hosts: the same folder, on a disk "
            "that they share. Received: none. The first host writes it; all hosts read "
            "it to resume."
        )
