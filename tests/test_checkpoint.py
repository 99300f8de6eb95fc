"""A run that is broken, at whatever moment, ends as if it were not."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
from run_folder import assert_same_weights, history

from keras_aploss import (
    ClassBalancedSampler,
    RetrievalEvaluation,
    RunCheckpoint,
    train_run,
)
from keras_aploss.runs import checkpoint as checkpoint_module
from keras_aploss.runs.checkpoint import load_model, read_history, replace


def interrupt_at(monkeypatch, step, folder, settings, error=KeyboardInterrupt):
    """Begin a run anew in `folder` and break it after the given step."""
    shutil.rmtree(folder, ignore_errors=True)

    def stop(checkpoint, batch, logs=None):
        if int(checkpoint.model.optimizer.iterations) == step:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_train_batch_end", stop)
        return train_run(settings, folder, export_to=None, verbose=0)


def test_a_run_interrupted_in_an_epoch_goes_on_as_if_unbroken(
    finished_run, tiny_settings, monkeypatch, tmp_path
):
    folder = tmp_path / "run"
    report = interrupt_at(monkeypatch, 10, folder, tiny_settings)  # in epoch 3
    assert report.interrupted
    assert report.epochs == 2
    assert report.metrics == {}
    assert not (folder / "evaluation").exists()

    # What a kill between the two files would leave: a history that is ahead.
    with open(folder / "history.csv", "a", encoding="utf-8") as file:
        file.write("3,12,0.1,0.99,0.99,0.99,1.0\n")
    resumed = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert resumed.metrics == finished_run.metrics
    assert history(folder) == history(finished_run.folder)
    for name in ("last.keras", "best.keras"):
        assert_same_weights(folder / name, finished_run.folder / name)
    projector = (folder / "tensorboard/retrieval/projector_config.pbtxt").read_text()
    assert "embeddings_before_training" in projector


def test_resuming_a_finished_run_changes_nothing(finished_run, tiny_settings, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    (folder / "curves.png").unlink()
    before = (folder / "last.keras").read_bytes()
    report = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert report.metrics == finished_run.metrics
    assert report.saved_model is None
    assert history(folder) == history(finished_run.folder)
    assert (folder / "last.keras").read_bytes() == before
    assert (folder / "curves.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_an_error_in_any_epoch_can_be_resumed(
    finished_run, tiny_settings, monkeypatch, tmp_path, step
):
    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk"):
        interrupt_at(monkeypatch, step, folder, tiny_settings, OSError("disk full"))
    train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert history(folder) == history(finished_run.folder)
    assert_same_weights(folder / "last.keras", finished_run.folder / "last.keras")


@pytest.mark.slow
def test_a_run_killed_before_the_first_evaluation_starts_from_the_beginning(
    finished_run, tiny_settings, monkeypatch, tmp_path
):
    folder = tmp_path / "run"

    def kill(*args):
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_epoch_begin", kill)
        with pytest.raises(SystemError):
            train_run(tiny_settings, folder, export_to=None, verbose=0)
    assert not (folder / "last.keras").exists()
    report = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert report.metrics == finished_run.metrics
    assert_same_weights(folder / "last.keras", finished_run.folder / "last.keras")


@pytest.mark.slow
def test_threads_do_not_change_the_weights(finished_run, tiny_settings, tmp_path):
    settings = dataclasses.replace(tiny_settings, workers=3)
    train_run(settings, tmp_path / "run", export_to=None, verbose=0)
    last = tmp_path / "run" / "last.keras"
    assert_same_weights(last, finished_run.folder / "last.keras")


@pytest.mark.slow
def test_a_model_that_diverges_ends_with_a_sentence(tiny_settings, tmp_path):
    settings = dataclasses.replace(tiny_settings, learning_rate=1e38)
    with pytest.raises(ValueError, match="finite embeddings"):
        train_run(settings, tmp_path / "run", export_to=None, verbose=0)


def test_resuming_with_images_lost_goes_on_and_says_so(
    finished_run, tiny_settings, tmp_path, caplog, monkeypatch
):
    """The epochs of other lengths are told by their steps, not counted wrongly."""
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    seen = []
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: seen.append(k))
    monkeypatch.setattr(ClassBalancedSampler, "__len__", lambda self: 2)
    longer = dataclasses.replace(tiny_settings, epochs=5)
    longer.save(folder / "settings.json")
    train_run(longer, folder, resume=True, export_to=None, verbose=0)
    assert seen[0]["initial_epoch"] == 3
    assert "not those that the run began with" in caplog.text


@pytest.mark.parametrize("content", [None, "", "epoch,step\n1,4\n", "epoch\n3\n"])
def test_a_history_that_does_not_fit_the_model_is_refused(
    finished_run, tiny_settings, tmp_path, content
):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    (folder / "history.csv").unlink()
    if content is not None:
        (folder / "history.csv").write_text(content)
    with pytest.raises(ValueError, match=r"history\.csv"):
        read_history(folder, 12)
    with pytest.raises(ValueError, match=r"history\.csv"):
        train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)


class Killed(BaseException):
    """Stands for a signal that no handler sees."""


def small_model():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(4),
        keras.layers.UnitNormalization(),
    ]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    return model


def fit_small_model(folder, epochs=3, **evaluation_options):
    """Begin or go on, as a run does."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 4, 4, 3), "uint8"), np.arange(8) // 2
    sampler = ClassBalancedSampler(
        images, labels, classes_per_batch=2, images_per_class=2
    )
    last = folder / "last.keras"
    evaluation = RetrievalEvaluation(
        images, labels, evaluate_before=not last.exists(), **evaluation_options
    )
    checkpoint = RunCheckpoint(folder, sampler, evaluation)
    model = load_model(last, compile=True) if last.exists() else small_model()
    checkpoint.rows = read_history(folder, int(model.optimizer.iterations))
    model.run_eagerly = True
    model.fit(
        sampler, epochs=epochs, initial_epoch=len(checkpoint.rows), verbose=0,
        callbacks=[evaluation, checkpoint], shuffle=False,
    )  # fmt: skip
    return checkpoint


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    fit_small_model(folder)
    return folder


@pytest.mark.parametrize("kill_at", range(11))
def test_a_kill_at_any_write_loses_nothing(unbroken, tmp_path, monkeypatch, kill_at):
    done = []

    def replace_or_die(path, write):
        if len(done) == kill_at:
            path.with_name("unfinished_" + path.name).write_bytes(b"half of it")
            raise Killed
        replace(path, write)
        done.append(path.name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "replace", replace_or_die)
        with pytest.raises(Killed):
            fit_small_model(tmp_path)
    fit_small_model(tmp_path)
    assert history(tmp_path) == history(unbroken)
    for name in ("best.keras", "last.keras"):
        assert_same_weights(tmp_path / name, unbroken / name)
    before = np.load(tmp_path / "before.npy")
    np.testing.assert_array_equal(before, np.load(unbroken / "before.npy"))
    assert not list(tmp_path.glob("unfinished_*"))


def test_best_is_the_model_of_the_highest_map(unbroken):
    rows = read_history(unbroken, 6)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [2, 4, 6]
    best = load_model(unbroken / "best.keras", compile=True)
    expected = rows[int(np.argmax([row["val_map"] for row in rows]))]["step"]
    assert int(best.optimizer.iterations) == expected


def test_epochs_that_are_not_evaluated_have_gaps_in_the_history(tmp_path):
    fit_small_model(tmp_path, epochs=2, every=2)
    fit_small_model(tmp_path, epochs=4, every=2)
    rows = read_history(tmp_path, 8)
    assert ["val_map" in row for row in rows] == [False, True, False, True]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no file"])
def test_a_damaged_model_file_is_named(unbroken, tmp_path, damage):
    path = tmp_path / "model.keras"
    whole = (unbroken / "last.keras").read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no model"}
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"Expected a .*`\.keras` file.*model\.keras"):
        load_model(path)
