"""A run on several devices is that of one: strategies, hosts, what they hand over.

Devices and hosts have to be set up before Keras runs, so `host.py` trains in processes
of its own. All on the processor: virtual devices, and hosts that are processes.
"""

import csv
import json
import shutil
import signal
import time

import host
import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import started
from run_folder import read_weights

from keras_aploss import RunSettings
from keras_aploss.runs import new_run_folder
from keras_aploss.runs.checkpoint import load_model
from keras_aploss.runs.data import read_run_data
from keras_aploss.runs.devices import Devices, use_devices
from keras_aploss.runs.network import make_sampler
from keras_aploss.serving import export_saved_model

SETTINGS = {
    "num_landmarks": 16,
    "num_test_landmarks": 4,
    "views_per_landmark": 4,
    "image_size": 16,
    "units": 8,
    "classes_per_batch": 4,
    "images_per_class": 4,
    "steps_per_epoch": 2,
    "epochs": 1,
    "num_chunks": 2,
}


def start(*args, **options):
    return started(host.start(*args, **options))


def run_of(folder, **options):
    settings = {**SETTINGS, **options.pop("settings", {})}
    return {"folder": str(folder), "settings": settings, "export_to": None, **options}


def start_hosts(*runs, output, alone=()):
    """Two hosts that do `runs` together, and then the first one `alone`."""
    port = host.free_port()
    return [
        start(runs, output, backend="jax", process=1, port=port),
        start([*runs, *alone], output, backend="jax", process=0, port=port),
    ]


def finish(*processes, output, seconds=500):
    for process in processes:
        assert process.wait(seconds) == 0, output.read_text()[-5000:]


def rows_of(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def assert_near(folder, other, rtol, atol, weights_of="last.keras"):
    """Both runs have the same history and weights."""
    rows, others = rows_of(folder), rows_of(other)
    assert len(rows) == len(others) > 0
    for row, same in zip(rows, others, strict=True):
        assert row == pytest.approx(same, rel=rtol)
    weights = read_weights(folder / weights_of)
    for weight, same in zip(weights, read_weights(other / weights_of), strict=True):
        np.testing.assert_allclose(weight, same, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("backend", "strategy"),
    [("tensorflow", "data_parallel"), ("jax", "mirrored"), ("torch", "mirrored")],
)
def test_a_strategy_of_another_backend_is_refused(monkeypatch, backend, strategy):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    needed = {"mirrored": "tensorflow", "data_parallel": "jax"}[strategy]
    message = f"Expected KERAS_BACKEND={needed} for.*={backend}. Set it"
    with pytest.raises(ValueError, match=message), use_devices(strategy):
        pass


def test_several_hosts_that_would_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    message = "Expected `--strategy data_parallel`.*would train alone"
    with pytest.raises(ValueError, match=message), use_devices("one_device"):
        pass


class Taken(Exception):
    """In place of a strategy that takes all devices of the machine."""


@pytest.mark.parametrize(
    ("cluster", "refused"),
    [
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {}}, True),
        ({"cluster": {"worker": ["a:1"]}}, False),
        ({"cluster": {}}, False),
        ([], False),
        (None, False),
    ],
)
def test_several_hosts_with_tensorflow_are_refused(monkeypatch, cluster, refused):
    def take():
        raise Taken

    monkeypatch.setattr(tf.distribute, "MirroredStrategy", take)
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    message = "2 workers.*KERAS_BACKEND=jax.*--strategy data_parallel"
    expected = (ValueError, message) if refused else (Taken, None)
    with pytest.raises(expected[0], match=expected[1]), use_devices("mirrored"):
        pass
    monkeypatch.setenv("TF_CONFIG", "no JSON")
    with pytest.raises(Taken), use_devices("mirrored"):
        pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, None),
        ("", None),
        ("1", None),
        ("2", r"Expected `--run-dir` for 2 hosts: the same folder"),
        ("two", r"NUM_PROCESSES to be a number\. Received: 'two'"),
    ],
)
def test_hosts_need_a_folder_that_they_share(monkeypatch, value, message):
    monkeypatch.delenv("KERAS_DISTRIBUTION_NUM_PROCESSES", raising=False)
    if value is not None:
        monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", value)
    if message is None:
        assert new_run_folder(RunSettings()).parts[0] == "runs"
        return
    with pytest.raises(ValueError, match=message):
        new_run_folder(RunSettings())


def test_one_device_is_this_process_alone():
    with use_devices("one_device") as devices:
        assert devices == Devices(0, 1, 1, "one device")


@pytest.mark.slow
def test_mirrored_on_two_devices_gives_the_weights_of_one(tmp_path):
    """With batch normalization frozen: trained, each device has statistics of its own.

    Their moving averages and the gradient then differ, as the documentation says.
    """
    output = tmp_path / "output.txt"
    settings = {"epochs": 2, "strategy": "mirrored"}
    two = run_of(tmp_path / "two", settings=settings, freeze=True, devices=2)
    two["export_to"] = str(tmp_path / "saved_models")
    one = run_of(tmp_path / "one", settings={"epochs": 2}, freeze=True)
    finish(start([two, one], output, backend="tensorflow"), output=output)
    assert_near(tmp_path / "two", tmp_path / "one", rtol=1e-4, atol=1e-6)

    found = np.load(tmp_path / "two_0.npz")
    version = tf.saved_model.load(str(tmp_path / "saved_models" / "landmarks" / "1"))
    images = tf.constant(host.images(), "float32")
    served = version.signatures["images"](images=images)["embedding"]
    np.testing.assert_allclose(served, found["embeddings"], atol=1e-5)


def drawn_by(process, settings):
    """The training images that are in the share of a process."""
    settings = RunSettings(**settings)
    images = read_run_data(settings).train
    whole = make_sampler(settings, images, Devices(0, 1, 1, "one"))
    size = len(whole.indices.batch(0, 0)) // 2
    numbers = [
        whole.indices.batch(epoch, step)[process * size : (process + 1) * size]
        for epoch in range(settings.epochs)
        for step in range(len(whole))
    ]
    return np.unique(np.concatenate(numbers))


def assert_one_host_writes_and_each_reads_its_share(folder, run):
    names = {path.name for path in (folder / "two").iterdir()}
    assert names == {
        "settings.json", "history.csv", "skipped.csv", "last.keras", "best.keras",
        "model.keras", "before.npy", "tensorboard", "evaluation",
    }  # fmt: skip
    # A second writer would have left a second file of events.
    assert len(list((folder / "two" / "tensorboard" / "train").iterdir())) == 1
    drawn = [drawn_by(process, run["settings"]) for process in range(2)]
    assert not np.array_equal(*drawn)
    for process, numbers in enumerate(drawn):
        read = np.load(folder / f"two_{process}.npz")["read"]
        np.testing.assert_array_equal(read, numbers)


def assert_trained_on_jax_it_serves_on_tensorflow(folder):
    found = np.load(folder / "two_0.npz")["embeddings"]
    images = host.images()
    # TensorFlow and JAX round convolutions differently.
    model = load_model(folder / "two" / "model.keras")
    np.testing.assert_allclose(model(images, training=False), found, atol=1e-5)
    version = export_saved_model(model, folder / "exported", image_size=16)
    served = tf.saved_model.load(str(version)).signatures["images"]
    embeddings = served(images=tf.constant(images, "float32"))["embedding"]
    np.testing.assert_allclose(embeddings, found, atol=1e-5)
    # The model that goes on with the training, too: it embeds in chunks.
    last = load_model(folder / "two" / "last.keras", compile=True)
    np.testing.assert_allclose(last(images, training=False), found, atol=1e-5)


def check_two_hosts(folder, **settings):
    output = folder / "output.txt"
    two = run_of(folder / "two", settings={"strategy": "data_parallel", **settings})
    one = run_of(folder / "one", settings=settings)
    finish(*start_hosts(two, alone=[one], output=output), output=output)
    assert_near(folder / "two", folder / "one", rtol=1e-5, atol=1e-6)
    assert_one_host_writes_and_each_reads_its_share(folder, two)
    assert_trained_on_jax_it_serves_on_tensorflow(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "num_chunks"), [(1, 2), (3, 1), (3, 2)])
def test_two_hosts_give_the_run_of_one_and_tensorflow_goes_on(
    tmp_path, epochs, num_chunks
):
    pytest.importorskip("jax")
    check_two_hosts(tmp_path, epochs=epochs, num_chunks=num_chunks)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """An unbroken run of two hosts, and one of which the second host was killed."""
    pytest.importorskip("jax")
    root = tmp_path_factory.mktemp("killed")
    output = root / "output.txt"
    settings = {"strategy": "data_parallel", "epochs": 12, "steps_per_epoch": 6}
    settings["learning_rate"] = 2e-4  # so low that roundings do not grow with the steps
    unbroken = run_of(root / "unbroken", settings=settings)
    finish(*start_hosts(unbroken, output=output), output=output)

    broken = run_of(root / "broken", settings=settings)
    second, first = start_hosts(broken, output=root / "broken.txt")
    deadline = time.monotonic() + 300
    history = root / "broken" / "history.csv"
    while not history.exists() or len(rows_of(root / "broken")) < 2:
        assert first.poll() is None, (root / "broken.txt").read_text()[-5000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    began = time.monotonic()
    code = first.wait(150)
    print("the first host ended", code, time.monotonic() - began, "s after the second")
    assert code != 0
    assert 2 <= len(rows_of(root / "broken")) < 12
    return root


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2])
def test_when_a_host_is_killed_the_other_ends_and_the_run_goes_on(
    killed, tmp_path, hosts
):
    folder = shutil.copytree(killed / "broken", tmp_path / "run")
    settings = json.loads((folder / "settings.json").read_text())
    run = run_of(folder, settings=settings, resume=True)
    output = tmp_path / "output.txt"
    if hosts == 2:
        processes = start_hosts(run, output=output)
    else:
        processes = [start([run], output, backend="jax")]
    finish(*processes, output=output)
    assert len(rows_of(folder)) == 12
    ended, wanted, broken = (
        np.concatenate([np.ravel(weight) for weight in read_weights(path)])
        for path in (
            folder / "model.keras",
            killed / "unbroken" / "model.keras",
            killed / "broken" / "best.keras",
        )
    )
    if hosts == 2:
        np.testing.assert_array_equal(ended, wanted)
    # On one device sums are rounded otherwise. An epoch too many or too few would be
    # a tenth of the way.
    way = np.linalg.norm(wanted - broken)
    print("off by", np.linalg.norm(ended - wanted) / way)
    assert np.linalg.norm(ended - wanted) < 0.02 * way
