"""A process that trains: one host of a run, or one with several devices.

    python tests/host.py '[{"folder": "a", "settings": {"epochs": 1}}]'

One run after the other. Beside each run folder it writes `<folder>.npz`: the numbers of
the training images that it has read, and what `model.keras` makes of `images()`.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def images():
    """Images that models of two processes are compared by."""
    return np.random.default_rng(5).integers(0, 256, (12, 16, 16, 3), "uint8")


def start(runs, output, backend, process=0, port=None):
    """Start this file; with `port`, as number `process` of two hosts."""
    hosts = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
    }
    environment = {
        **{key: os.environ[key] for key in os.environ if key != "TF_CONFIG"},
        **(hosts if port else {}),
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(ROOT),
    }
    with open(output, "ab") as file:
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps(runs)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Recorded:
    """Images that remember which of them were read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.read.append(number)
        return self.images[number]


def patch_devices(count):
    """Let the strategy find some processors of this machine."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, count * [tf.config.LogicalDeviceConfiguration()]
    )
    strategy, names = tf.distribute.MirroredStrategy, [f"CPU:{i}" for i in range(count)]
    tf.distribute.MirroredStrategy = lambda: strategy(names)


def train(folder, settings, *, freeze=False, **options):
    """Train, and write beside the folder what the tests look at."""
    from keras_aploss import RunSettings, train_run
    from keras_aploss.models import retrieval_model, small_resnet
    from keras_aploss.runs import network, run
    from keras_aploss.runs.checkpoint import load_model

    recorded, make_sampler = [], network.make_sampler

    def make_recorded(settings, train, devices):
        recorded.append(Recorded(train.images))
        return make_sampler(settings, train._replace(images=recorded[0]), devices)

    def make_model(backbone, units, *, weights, **options):
        # A part of the network suffices, and is compiled in less time.
        backbone = small_resnet((8,))
        return retrieval_model(backbone, units, freeze_batch_norm=freeze, **options)

    if settings.get("strategy") != "data_parallel":  # what hosts did before is over
        os.environ.pop("KERAS_DISTRIBUTION_NUM_PROCESSES", None)
    run.make_sampler = make_recorded
    network.retrieval_model = make_model
    try:
        train_run(RunSettings(**settings), folder, verbose=2, **options)
    finally:
        run.make_sampler = make_sampler
        network.retrieval_model = retrieval_model
    number = os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")
    found = {"read": np.unique(recorded[0].read)}
    if number == "0":
        model = load_model(pathlib.Path(folder) / "model.keras")
        found["embeddings"] = np.asarray(model(images(), training=False))
    np.savez(f"{folder}_{number}.npz", **found)


if __name__ == "__main__":
    runs = json.loads(sys.argv[1])
    devices = {run.pop("devices", 0) for run in runs} - {0}
    if devices:
        patch_devices(*devices)
    for run in runs:
        train(**run)
