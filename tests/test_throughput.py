"""Speed and memory in the logs."""

import time

import keras
import numpy as np
import pytest

from keras_aploss import Throughput
from keras_aploss.callbacks import throughput

STEP, EVALUATION = 0.05, 0.5


class Slow(keras.callbacks.Callback):
    """Takes its time within the steps, and far more between and after them."""

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(max(0, STEP - (time.monotonic() - self.began)))

    def on_epoch_end(self, epoch, logs=None):
        time.sleep(EVALUATION)


class Reader(keras.callbacks.Callback):
    """What later callbacks, such as the progress bar, are given."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


@pytest.fixture(scope="module")
def reader():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    x, reader = np.ones((40, 2)), Reader()
    # The first epoch compiles.
    model.fit(
        x, x[:, 0], batch_size=8, epochs=2, verbose=0, validation_data=(x, x[:, 0]),
        callbacks=[Slow(), Throughput(batch_size=8), reader],
    )  # fmt: skip
    return reader


def test_each_step_and_epoch_tells_speed_and_memory(reader):
    assert len(reader.steps) == 10
    for logs in [*reader.steps, *reader.epochs]:
        assert logs["images/s"] > 0
        assert 0.05 < logs["GiB"] < 100
        assert "loss" in logs


def test_images_are_counted_by_the_time_of_the_steps_alone(reader):
    # 8 images per step of at least 0.05 s; with the evaluation it were half of it.
    speed = reader.epochs[1]["images/s"]
    assert speed <= 8 / STEP * 1.01
    assert speed > 5 * 8 / (5 * STEP + EVALUATION)
    # A mean since the epoch began, not over both epochs, of which the first compiled.
    assert reader.steps[9]["images/s"] == pytest.approx(speed, rel=0.05)


def test_the_mean_begins_anew_in_each_epoch(monkeypatch):
    now = iter([0, 4, 10, 14, 100, 101])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(now))
    callback, speeds = Throughput(batch_size=6), []
    for epoch, steps in enumerate((2, 1)):
        callback.on_epoch_begin(epoch)
        for step in range(steps):
            logs = {}
            callback.on_train_batch_begin(step)
            callback.on_train_batch_end(step, logs)
            speeds.append(logs["images/s"])
    assert speeds == [6 / 4, 12 / 8, 6]


def test_an_epoch_without_steps_or_logs_tells_nothing():
    callback, logs = Throughput(batch_size=6), {}
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, logs)
    assert logs == {}
    callback.on_train_batch_begin(0)
    callback.on_train_batch_end(0, None)
    callback.on_epoch_end(0, None)


def test_memory_that_is_taken_is_seen():
    before = throughput.memory_gib()
    taken = np.ones(2**27, "uint8")  # an eighth of a GiB
    assert throughput.memory_gib() - before == pytest.approx(1 / 8, abs=1 / 16)
    assert taken[-1]


def test_all_batches_of_an_execution_are_counted():
    """Five batches in executions of two, two and one."""
    callback, images = Throughput(batch_size=6), []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: images.append(callback._images)
    )
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse", steps_per_execution=2)
    x = np.ones((30, 2))
    model.fit(x, x[:, 0], batch_size=6, verbose=0, callbacks=[callback, count])
    assert images == [12, 24, 30]
