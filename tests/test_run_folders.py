"""One job in a run folder at a time, and what a failed one leaves."""

import concurrent.futures
import dataclasses
import os
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from command_line import start, wait_until
from run_folder import assert_same_weights, history

from keras_aploss import RetrievalEvaluation, RunSettings, train_run
from keras_aploss.files import locked
from keras_aploss.runs import new_run_folder
from keras_aploss.runs.checkpoint import read_before
from keras_aploss.runs.folder import check_folder, held_folder


def test_no_two_jobs_get_the_same_new_folder(tmp_path, monkeypatch):
    """Also within one second: of 11 pairs of jobs, 7 shared a folder."""
    monkeypatch.setattr("time.strftime", lambda form: "20250101-000000")
    settings = RunSettings(name="one")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run_folder(settings, tmp_path), range(20)))
    assert len(set(made)) == 20
    assert all(folder.is_dir() for folder in made)
    names = {folder.name for folder in made}
    assert {"one-20250101-000000", "one-20250101-000000-20"} <= names


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_job_is_told_who_trains_in_the_folder(
    finished_run, tiny_settings, resume
):
    folder = finished_run.folder
    holder = re.escape(f"process {os.getpid()} on {socket.gethostname()}")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with held_folder(folder, resume=True):
        with pytest.raises(BlockingIOError, match=f"the run '{folder}'.*{holder}"):
            train_run(tiny_settings, folder, resume=resume, verbose=0)
        (folder / "lock").stat()
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {**after, folder: 0} == {**before, folder: 0}


HOLD = """
import sys, time
from keras_aploss.files import locked
with locked(sys.argv[1] + "/lock"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_job_that_was_killed_is_free(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    job = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    )
    try:
        assert job.stdout.readline() == "held\n"
        with (
            pytest.raises(BlockingIOError, match=f"process {job.pid} on "),
            held_folder(folder, resume=False),
        ):
            raise AssertionError
    finally:
        job.kill()
        job.communicate()
    assert (folder / "lock").exists()  # what the job left
    with held_folder(folder, resume=False):
        pass
    assert not folder.exists()


def test_of_several_hosts_the_first_one_holds_the_folder(tmp_path, monkeypatch):
    with held_folder(tmp_path / "run", resume=False):
        monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
        with held_folder(tmp_path / "run", resume=False):
            pass
        monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "0")
        with (
            pytest.raises(BlockingIOError),
            held_folder(tmp_path / "run", resume=False),
        ):
            raise AssertionError


def test_a_run_that_failed_early_does_not_refuse_the_same_command(
    tiny_settings, tmp_path, monkeypatch
):
    begun = []

    def fit(model, *args, **kwargs):
        begun.append(model)
        raise ValueError("a name that TensorBoard cannot write")

    monkeypatch.setattr(keras.Model, "fit", fit)
    for _ in range(2):
        with pytest.raises(ValueError, match="TensorBoard"):
            train_run(tiny_settings, tmp_path, export_to=None, verbose=0)
    assert len(begun) == 2
    # It can be resumed too, but is not overwritten by another run.
    check_folder(tmp_path, tiny_settings, resume=True)
    other = dataclasses.replace(tiny_settings, epochs=9)
    with pytest.raises(ValueError, match="or resume that run"):
        train_run(other, tmp_path, export_to=None, verbose=0)


@pytest.mark.parametrize("name", ["last.keras", "model.keras", "history.csv"])
def test_what_was_trained_is_not_overwritten_by_the_same_command(tmp_path, name):
    settings = RunSettings()
    settings.save(tmp_path / "settings.json")
    assert check_folder(tmp_path, settings, resume=False) == settings
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="or resume that run"):
        check_folder(tmp_path, settings, resume=False)


def test_settings_of_another_program_are_not_overwritten(tmp_path):
    (tmp_path / "settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(ValueError, match="new run folder"):
        check_folder(tmp_path, RunSettings(), resume=False)


DAMAGES = {
    "cut": lambda whole: whole[:-5],
    "no header": lambda whole: whole[:20],
    "empty": lambda whole: b"",
    "text": lambda whole: b"no array",
    "not finite": lambda whole: whole[:-4] + np.float32(np.nan).tobytes(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_embeddings_of_the_untrained_model_are_named_and_done_without(
    tmp_path, caplog, damage
):
    path, embeddings = tmp_path / "before.npy", np.eye(4, dtype="float32")
    np.save(path, embeddings)
    evaluation = RetrievalEvaluation(np.zeros((4, 8, 8, 3)), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(read_before(tmp_path, evaluation)[1], embeddings)
    assert not caplog.text
    path.write_bytes(damage(path.read_bytes()))
    assert read_before(tmp_path, evaluation) is None
    assert str(path) in caplog.text
    assert "pickle" not in caplog.text


@pytest.mark.slow
def test_jobs_that_start_together_train_apart(tmp_path, tiny_settings):
    tiny_settings.save(tmp_path / "tiny.json")
    arguments = "train", "--config", "tiny.json", "--export-to", ""
    jobs = [start(tmp_path, *arguments) for _ in range(2)]
    assert [job.wait(300) for job in jobs] == [0, 0]
    one, other = (tmp_path / "runs").iterdir()
    assert history(one) == history(other)
    assert_same_weights(one / "last.keras", other / "last.keras")


@pytest.mark.slow
def test_a_run_that_is_going_is_not_resumed_but_read(tmp_path, tiny_settings):
    longer = dataclasses.replace(tiny_settings, epochs=100_000)
    longer.save(tmp_path / "tiny.json")
    given = "train", "--config", "tiny.json", "--run-dir", "run", "--export-to", ""
    job = start(tmp_path, *given)
    wait_until(job, (tmp_path / "run" / "history.csv").exists)
    for arguments in (given, ("train", "--resume", "run")):
        output = subprocess.run(
            [sys.executable, "-m", "keras_aploss", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert output.returncode == 1
        assert f"process {job.pid} on {socket.gethostname()}" in output.stderr
    output = subprocess.run(
        [sys.executable, "-m", "keras_aploss", "evaluate", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "16 queries of 4 classes" in output.stdout
    assert "of 100000 epochs" in output.stderr
    assert job.poll() is None
    job.kill()
    job.wait()
    with locked(tmp_path / "run" / "lock"):
        pass
