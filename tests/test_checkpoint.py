"""A run that is broken, at whatever moment, ends as if it were not."""

import contextlib
import dataclasses
import errno
import pathlib
import re
import resource
import shutil
import tempfile

import keras
import numpy as np
import pytest
from image_folders import make_folder
from run_folder import assert_same_weights, history

from keras_aploss import (
    ClassBalancedSampler,
    MultistageTrainer,
    RetrievalEvaluation,
    RunSettings,
    files,
    retrieval_model,
    train_run,
)
from keras_aploss.runs import (
    RunCheckpoint,
    checkpoint as checkpoint_module,
    network,
    run as run_module,
)
from keras_aploss.runs.checkpoint import load_model, read_history, steps_of
from keras_aploss.tables import write_table
from keras_aploss.training import activation_bytes, memory


def interrupt_at(monkeypatch, step, folder, settings, error=KeyboardInterrupt):
    """Begin a run anew in `folder` and break it after the given step."""
    shutil.rmtree(folder, ignore_errors=True)

    def stop(checkpoint, batch, logs=None):
        if int(checkpoint.model.optimizer.iterations) == step:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_train_batch_end", stop)
        return train_run(settings, folder, export_to=None, verbose=0)


@pytest.mark.slow
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
    with open(folder / "history.csv", "r+", encoding="utf-8") as file:
        others = len(file.read().splitlines()[0].split(",")) - 2
        file.write(",".join(["3", "12", *others * ["0.99"]]) + "\n")
    resumed = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert resumed.metrics == finished_run.metrics
    assert history(folder) == history(finished_run.folder)
    for name in ("last.keras", "best.keras"):
        assert_same_weights(folder / name, finished_run.folder / name)
    projector = (folder / "tensorboard/retrieval/projector_config.pbtxt").read_text()
    assert "embeddings_before_training" in projector


def test_resuming_a_finished_run_changes_nothing(finished_run, tiny_settings, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    (folder / "evaluation" / "index.html").unlink()
    before = (folder / "last.keras").read_bytes()
    report = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert report.metrics == finished_run.metrics
    assert report.saved_model is None
    assert history(folder) == history(finished_run.folder)
    assert (folder / "last.keras").read_bytes() == before
    page = (folder / "evaluation" / "index.html").read_text()
    assert "Training of 3 epochs" in page


@pytest.mark.slow
def test_a_run_resumed_beside_new_classes_ends_as_an_unbroken_one(
    tiny_settings, monkeypatch, tmp_path
):
    photos = make_folder(tmp_path / "photos", "bcdefghi", views=4)
    settings = dataclasses.replace(tiny_settings, data=str(photos))
    whole = train_run(settings, tmp_path / "whole", export_to=None, verbose=0)
    folder = tmp_path / "run"
    interrupt_at(monkeypatch, 5, folder, settings)
    make_folder(photos, ["a", "z"])
    make_folder(photos / "b", ["more"])
    report = train_run(settings, folder, resume=True, export_to=None, verbose=0)
    assert report.metrics == whole.metrics
    assert report.title == whole.title
    assert history(folder) == history(whole.folder)
    for name in ("last.keras", "best.keras", "model.keras"):
        assert_same_weights(folder / name, whole.folder / name)


@pytest.mark.slow
def test_a_resumed_run_of_before_does_not_say_that_it_knows_its_classes(
    tiny_settings, monkeypatch, tmp_path
):
    photos = make_folder(tmp_path / "photos", "bcdefghi", views=4)
    settings = dataclasses.replace(tiny_settings, data=str(photos))
    folder = tmp_path / "run"
    interrupt_at(monkeypatch, 5, folder, settings)
    (folder / "split.csv").unlink()
    report = train_run(settings, folder, resume=True, export_to=None, verbose=0)
    assert report.title.endswith("whether the model was trained on them is not known")
    assert not (folder / "split.csv").exists()


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


def small_model(num_chunks=1):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(4),
        keras.layers.UnitNormalization(),
    ]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    model = model if num_chunks == 1 else MultistageTrainer(model, num_chunks)
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    return model


def fit_small_model(folder, epochs=3, num_chunks=1, **evaluation_options):
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
    model = load_model(last, compile=True) if last.exists() else small_model(num_chunks)
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


# The writes of the untrained model and of the first epoch; then they repeat.
@pytest.mark.parametrize(
    "kill_at",
    [*range(6), *(pytest.param(n, marks=pytest.mark.slow) for n in range(6, 11))],
)
def test_a_kill_at_any_write_loses_nothing(unbroken, tmp_path, monkeypatch, kill_at):
    done, replace = [], files.os.replace

    def replace_or_die(new, path):
        if len(done) == kill_at:
            raise Killed
        replace(new, path)
        done.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace_or_die)
        with pytest.raises(Killed):
            fit_small_model(tmp_path)
    fit_small_model(tmp_path)
    assert history(tmp_path) == history(unbroken)
    for name in ("best.keras", "last.keras"):
        assert_same_weights(tmp_path / name, unbroken / name)
    before = np.load(tmp_path / "before.npy")
    np.testing.assert_array_equal(before, np.load(unbroken / "before.npy"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "is_before", "epochs"),
    [("history.csv", False, 1), ("last.keras", True, 1), ("last.keras", False, 2)],
)
def test_an_epoch_counts_once_its_model_is_written(
    tmp_path, monkeypatch, name, is_before, epochs
):
    """An interrupted run said "2 of 3 epochs" of a model after one."""
    done, replace = [], files.os.replace

    def replace_and_stop(new, path):
        done.append(pathlib.Path(path).name)
        is_now = done.count("last.keras") == 2 + (name == "last.keras")
        if is_before and is_now and done[-1] == name:
            raise KeyboardInterrupt
        replace(new, path)
        if is_now and done[-1] == name:
            raise KeyboardInterrupt

    made = []
    monkeypatch.setattr(
        RunCheckpoint, "on_train_begin", lambda self, logs=None: made.append(self)
    )
    monkeypatch.setattr(files.os, "replace", replace_and_stop)
    with pytest.raises(KeyboardInterrupt):
        fit_small_model(tmp_path)
    assert len(made[0].rows) == epochs
    step = steps_of(load_model(tmp_path / "last.keras", compile=True))
    assert [row["epoch"] for row in read_history(tmp_path, step)][-1] == epochs


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


@pytest.fixture(scope="module")
def in_chunks_settings(tiny_settings):
    """With memory for the activations of two images of six."""
    model = retrieval_model(units=8)
    of_an_image = memory.OVERHEAD * activation_bytes(model, (16, 16, 3))
    return dataclasses.replace(
        tiny_settings, epochs=2, workers=2, memory_gib=2.01 * of_an_image / 2**30
    )


@pytest.mark.slow
def test_the_automatic_number_of_chunks_is_kept(
    in_chunks_settings, monkeypatch, tmp_path
):
    """Also when a run goes on where the memory would allow another."""
    settings = dataclasses.replace(in_chunks_settings, num_chunks=3)
    folder = tmp_path / "run"
    interrupt_at(monkeypatch, 5, folder, in_chunks_settings)  # in epoch 2
    assert RunSettings.load(folder / "settings.json") == settings
    monkeypatch.setattr(network, "choose_num_chunks", lambda *args, **kwargs: 2)
    train_run(in_chunks_settings, folder, resume=True, export_to=None, verbose=0)
    assert RunSettings.load(folder / "settings.json") == settings
    assert len(history(folder)) == 2

    # Only what the training goes on with knows of chunks.
    last = load_model(folder / "last.keras", compile=True)
    assert isinstance(last, MultistageTrainer)
    assert last.num_chunks == 3
    for name in ("best.keras", "model.keras"):
        model = load_model(folder / name)
        assert type(model) is type(last.encoder) is type(retrieval_model(units=8))
        assert model.input_shape == (None, None, None, 3)
    for weight, same in zip(last.encoder.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, same)
    other = dataclasses.replace(settings, num_chunks=2)
    with pytest.raises(ValueError, match="Received: num_chunks=2 instead of 3"):
        train_run(other, folder, resume=True)


@pytest.mark.slow
def test_chunks_are_kept_by_a_run_killed_before_its_first_epoch(
    in_chunks_settings, monkeypatch, tmp_path
):
    def kill(*args):
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_epoch_begin", kill)
        with pytest.raises(SystemError):
            train_run(in_chunks_settings, tmp_path, export_to=None, verbose=0)
    assert RunSettings.load(tmp_path / "settings.json").num_chunks == 3
    monkeypatch.setattr(network, "choose_num_chunks", lambda *args, **kwargs: 2)
    train_run(in_chunks_settings, tmp_path, resume=True, export_to=None, verbose=0)
    assert load_model(tmp_path / "last.keras", compile=True).num_chunks == 3


@pytest.mark.slow
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_a_run_in_float16_goes_on_with_its_scale_of_the_loss(
    tiny_settings, monkeypatch, tmp_path, num_chunks
):
    settings = dataclasses.replace(
        tiny_settings, epochs=2, precision="mixed_float16", num_chunks=num_chunks
    )
    train_run(settings, tmp_path / "unbroken", export_to=None, verbose=0)
    rows = history(tmp_path / "unbroken")
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    folder = tmp_path / "run"
    step = int(rows[0]["step"]) + 1
    interrupt_at(monkeypatch, step, folder, settings)
    train_run(settings, folder, resume=True, export_to=None, verbose=0)
    assert history(folder) == rows
    assert_same_weights(folder / "last.keras", tmp_path / "unbroken" / "last.keras")


@contextlib.contextmanager
def full_disk(folders, name, epoch):
    """Where a step such as "save best.keras" in some folders fails after an epoch."""
    written, begun = [], []

    def check(path, step):
        path = pathlib.Path(path)
        if step == "replace history.csv" and path.parent == folders[0]:
            written.append(path)
        begun.append(step == name and len(written) >= epoch)
        if any(begun) and any(path.is_relative_to(folder) for folder in folders):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    save, replace = keras.Model.save, files.os.replace

    def save_if_room(model, path, *args, **kwargs):
        check(path, f"save {path.name.split('.')[1]}.keras")
        save(model, path, *args, **kwargs)

    def replace_if_room(new, path):
        check(path, f"replace {path.name}")
        replace(new, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "save", save_if_room)
        patch.setattr(files.os, "replace", replace_if_room)
        yield


@pytest.fixture(scope="module")
def unbroken_in_chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken_in_chunks")
    fit_small_model(folder, num_chunks=2)
    return folder


@pytest.mark.parametrize(
    ("name", "epoch", "what"),
    [
        ("replace before.npy", 0, "the untrained model"),
        pytest.param(
            "save last.keras", 0, "the untrained model", marks=pytest.mark.slow
        ),
        ("replace history.csv", 1, "epoch 1"),
        ("save last.keras", 2, "epoch 2"),
        pytest.param("save best.keras", 1, "epoch 1", marks=pytest.mark.slow),
        pytest.param("replace last.keras", 3, "epoch 3", marks=pytest.mark.slow),
    ],
)
def test_when_the_disk_is_full_the_epoch_is_saved_elsewhere(
    unbroken_in_chunks, tmp_path, monkeypatch, name, epoch, what
):
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    folder = tmp_path / "run"
    message = f"write {what} into the run.*No space left on device.*{spare}"
    with full_disk([folder], name, epoch), pytest.raises(OSError, match=message) as e:
        fit_small_model(folder, num_chunks=2)
    saved = pathlib.Path(re.search(r"saved in '(\S+)' instead", str(e.value))[1])
    assert "Make room, move the files" in str(e.value)
    assert {path.name for path in saved.iterdir()} >= {"last.keras", "history.csv"}
    for path in saved.iterdir():
        path.replace(folder / path.name)
    fit_small_model(folder, num_chunks=2)
    assert history(folder) == history(unbroken_in_chunks)
    for file in ("last.keras", "best.keras"):
        assert_same_weights(folder / file, unbroken_in_chunks / file)


def test_when_no_place_is_left_the_run_goes_on_from_the_epoch_before(
    unbroken_in_chunks, tmp_path, monkeypatch
):
    spare, folder = tmp_path / "spare", tmp_path / "run"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    message = f"write epoch 2 .*No space left.*run/.*; and for '{spare}.*No space left"
    full = full_disk([folder, spare], "save last.keras", 2)
    with full, pytest.raises(OSError, match=message) as e:
        fit_small_model(folder, num_chunks=2)
    assert "resume the run: it goes on from the last epoch that was" in str(e.value)
    done = fit_small_model(folder, num_chunks=2)
    assert [row["epoch"] for row in done.rows] == [1, 2, 3]
    assert history(folder) == history(unbroken_in_chunks)
    for file in ("last.keras", "best.keras"):
        assert_same_weights(folder / file, unbroken_in_chunks / file)


def test_files_that_the_system_cuts_off_are_errors_of_the_disk(
    unbroken_in_chunks, tmp_path, monkeypatch
):
    """Here no function is replaced by one that fails: HDF5 and zip do themselves."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "run"

    def cut_off(path, *table):
        if path == folder / "history.csv" and path.exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, kept[1]))
        write_table(path, *table)

    monkeypatch.setattr(checkpoint_module, "write_table", cut_off)
    try:
        with pytest.raises(OSError, match=r"write epoch 2 .*; and for"):
            fit_small_model(folder, num_chunks=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    monkeypatch.undo()
    fit_small_model(folder, num_chunks=2)
    assert history(folder) == history(unbroken_in_chunks)
    assert_same_weights(folder / "last.keras", unbroken_in_chunks / "last.keras")


@pytest.mark.slow
def test_a_run_whose_disk_was_full_goes_on(
    finished_run, tiny_settings, tmp_path, monkeypatch
):
    spare, folder = tmp_path / "spare", tmp_path / "run"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    with (
        full_disk([folder], "save last.keras", 2),
        pytest.raises(OSError, match="epoch 2 "),
    ):
        train_run(tiny_settings, folder, export_to=None, verbose=0)
    for path in spare.glob("*/*"):
        path.replace(folder / path.name)
    report = train_run(tiny_settings, folder, resume=True, export_to=None, verbose=0)
    assert report.metrics == finished_run.metrics
    for name in ("last.keras", "best.keras"):
        assert_same_weights(folder / name, finished_run.folder / name)


@pytest.mark.parametrize("kind", ["below a file", "a file", "full disk"])
def test_a_run_folder_that_cannot_be_written_is_refused_before_the_training(
    tiny_settings, tmp_path, monkeypatch, kind
):
    def fit(*args, **kwargs):
        raise AssertionError("the training began")

    monkeypatch.setattr(keras.Model, "fit", fit)
    folder, file = tmp_path / "run", tmp_path / "file"
    file.touch()
    if kind == "full disk":

        def replace(new, path):
            raise OSError(errno.ENOSPC, "No space left on device", path)

        monkeypatch.setattr(files.os, "replace", replace)
    else:
        monkeypatch.setattr(run_module, "read_run_data", fit)
        folder = file / "run" if kind == "below a file" else file
    with pytest.raises(OSError, match=re.escape(str(folder))):
        train_run(tiny_settings, folder, export_to=None, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_any_number_of_workers_trains_the_same_bits(
    tiny_settings, tmp_path, num_chunks
):
    weights = []
    for workers in (1, 4):
        settings = dataclasses.replace(
            tiny_settings, workers=workers, num_chunks=num_chunks, epochs=1
        )
        folder = tmp_path / f"{workers}"
        train_run(settings, folder, export_to=None, verbose=0)
        weights.append(keras.models.load_model(folder / "model.keras").get_weights())
    for others in weights[1:]:
        for ours, theirs in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(ours, theirs)
