"""The command line: options, messages, exit codes, Ctrl-C and kills."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import fail, invoke, start, succeed, wait_until, write_photos
from html_page import parse, table_rows
from PIL import Image
from run_folder import assert_same_weights, history

from keras_aploss import RunSettings, cli, runs
from keras_aploss.cli.output import print_skipped, show_any_name
from keras_aploss.images import ImageFiles
from keras_aploss.runs import RunReport
from keras_aploss.runs.checkpoint import load_model

ROOT = pathlib.Path(cli.__file__).parents[2]


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Settings that `train` hands over, instead of a training."""
    calls = []

    def train_run(settings, folder, **options):
        calls.append((settings, folder, options))
        return RunReport(folder, {}, None, True, 0)

    monkeypatch.setattr(runs, "train_run", train_run)
    monkeypatch.chdir(tmp_path)

    def settings_of(*args):
        assert invoke("train", *args).exit_code == 130
        return calls[-1][0]

    settings_of.calls = calls
    return settings_of


# A value of each setting that is not its default.
CHOICES = {"gem": "max", "float32": "mixed_float16", "one_device": "mirrored"}
OTHERS = {
    int: lambda value: value + 3,
    bool: lambda value: not value,
    float: lambda value: value / 2,
    str: lambda value: CHOICES.get(value, f"{value}2"),
}


def as_option(name, value):
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-")]
    return [option, str(value)]


def test_every_setting_is_an_option_and_a_line_of_the_file(given, tmp_path):
    other = RunSettings(
        **{
            field.name: OTHERS[field.type](field.default)
            for field in dataclasses.fields(RunSettings)
        }
    )
    values = dataclasses.asdict(other)
    flags = [text for item in values.items() for text in as_option(*item)]
    assert given(*flags) == other
    other.save(tmp_path / "settings.json")
    assert given("--config", tmp_path / "settings.json") == other
    assert given() == RunSettings()
    help_text = succeed("train", "--help")
    for name, value in values.items():
        assert as_option(name, value)[0] in help_text


def test_a_batch_size_is_an_option_and_may_be_in_the_file(given, tmp_path):
    assert given("--batch-size", 24, "--images-per-class", 4) == RunSettings(
        classes_per_batch=6, images_per_class=4
    )
    (tmp_path / "old.json").write_text('{"batch_size": 64, "images_per_class": 4}')
    config = ["--config", tmp_path / "old.json"]
    assert given(*config).classes_per_batch == 16
    assert given(*config, "--batch-size", 32).classes_per_batch == 8
    assert "Choose a power of two" in fail("train", "--batch-size", 127)


def test_options_win_over_the_file(given, tmp_path):
    (tmp_path / "some.json").write_text('{"epochs": 3, "units": 7, "augment": false}')
    config = ["--config", tmp_path / "some.json"]
    assert given(*config) == RunSettings(epochs=3, units=7, augment=False)
    # Also where the option is the default.
    settings = given(*config, "--epochs", 12, "--augment")
    assert settings == RunSettings(epochs=12, units=7)


def test_a_run_folder_is_named_after_the_data_and_the_time(given, tmp_path):
    given("--data", "some/photos")
    _, folder, options = given.calls[-1]
    assert re.fullmatch(r"runs/photos-\d{8}-\d{6}", str(folder))
    assert (tmp_path / folder).is_dir()
    assert options["export_to"] == "saved_models"
    given("--run-dir", "mine", "--export-to", "")
    _, folder, options = given.calls[-1]
    assert (str(folder), options["export_to"]) == ("mine", None)


def test_an_interrupted_run_says_how_to_go_on(given):
    output = invoke("train", "--run-dir", "my runs/a").output
    assert "Interrupted: 0 epochs are finished." in output
    assert "Resume with:  keras-aploss train --resume 'my runs/a'\n" in output
    output = invoke("train", "--run-dir", "a", "--export-to", "to").output
    assert output.endswith("keras-aploss train --resume a --export-to to\n")


def test_the_version_and_the_help_are_shown():
    assert re.search(r"\d+\.\d+", succeed("--version"))
    assert {"train", "evaluate", "export"} <= set(succeed("--help").split())


def test_help_imports_neither_keras_nor_tensorflow():
    code = f"""
import sys
from keras_aploss.cli import main
for name in ["", *{sorted(cli.main.commands)}]:
    main([name, "--help"] if name else ["--help"], standalone_mode=False)
    found = {{"keras", "numpy", "tensorflow", "PIL", "rich"}} & set(sys.modules)
    assert not found, (name, found)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert shown.count("Usage: ") == 1 + len(cli.main.commands)


@pytest.mark.slow
def test_a_resumed_finished_run_reports_again(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    output = succeed("train", "--resume", folder, "--export-to", tmp_path / "models")
    test_set = "the test set of landmarks: 16 queries of 4 classes"
    assert f"\nExact metrics on {test_set} never seen in training\n" in output
    for name, metrics in finished_run.metrics.items():
        figures = [f"{metrics[key]:.3f}" for key in ("map", "recall_at_1", "map_at_r")]
        assert f"{name} {' '.join(figures)}" in " ".join(output.split())
    listed = re.findall(rf"^  ({tmp_path}\S+)( +)", output, re.MULTILINE)
    assert len(listed) == 3
    assert all(pathlib.Path(path).exists() for path, _ in listed)
    assert len({len(path + gap) for path, gap in listed}) == 1  # aligned
    assert (tmp_path / "models" / "landmarks" / "1" / "saved_model.pb").exists()


def test_evaluate_repeats_the_figures_of_the_run(finished_run, tmp_path):
    report = tmp_path / "report"
    output = succeed("evaluate", finished_run.folder, "--report", report)
    wanted = finished_run.metrics
    figures = json.loads((report / "evaluation.json").read_text())["metrics"]
    assert figures["model"]["map"] == pytest.approx(wanted["after training"]["map"])
    assert figures["raw pixels"] == pytest.approx(wanted["raw pixels"])
    test_set = "the test set of landmarks: 16 queries of 4 classes"
    assert f"\nExact metrics on {test_set} never seen in training\n" in output
    for path in report.iterdir():
        assert f"  {path}\n" in output
    names = {path.name for path in report.iterdir()}
    pictures = {"rankings.png", "worst_queries.png", "best_queries.png"}
    assert names == {"index.html", "evaluation.json"} | pictures
    settings = parse((report / "index.html").read_text()).first(
        "section", id="settings"
    )
    facts, training = (dict(table_rows(table)) for table in settings.all("table"))
    command = f"keras-aploss evaluate {finished_run.folder} --report {report}"
    assert facts["Command"] == command
    assert facts["Model"] == str(finished_run.folder)
    assert facts["Data"] == "landmarks"
    assert facts["Image size"] == training["image_size"] == "16"
    assert training["units"] == "8"
    # The page of the run itself, of the same images.
    text = (finished_run.folder / "evaluation" / "index.html").read_text()
    rows = table_rows(parse(text).first("section", id="metrics").first("table"))
    assert rows[0][1:] == ["raw pixels", "before training", "after training"]
    assert rows[1][3] == f"{wanted['after training']['map']:.3f}"


def make_photos(root):
    for number in range(6):
        path = root / "photos" / f"class{number // 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), "uint8")
        Image.fromarray(pixels).resize((30, 20)).save(path)
    (root / "photos" / "class0" / "bad.png").write_bytes(b"")
    return root / "photos"


@pytest.mark.slow
def test_a_model_file_is_evaluated_and_exported_with_an_image_size(
    finished_run, tmp_path
):
    model = tmp_path / "mine.keras"
    shutil.copyfile(finished_run.folder / "model.keras", model)
    photos = make_photos(tmp_path)
    assert "Expected `--image-size`" in fail("evaluate", model, "--data", photos)
    output = succeed("evaluate", model, "--data", photos, "--image-size", 16)
    assert "on all of photos: 6 queries of 2 classes; whether the model was " in output
    assert "bad.png: the file is empty" in output
    first, copy = (photos / "class0" / name for name in ("0.png", "copy.png"))
    shutil.copyfile(first, copy)
    command = "evaluate", model, "--data", photos, "--image-size", 16
    output = succeed(*command)
    assert re.search("on all of photos: 6 queries of 2 .*; 1 copy left out\n", output)
    assert f"{copy}: a copy of '{first}' (class0)\n" in output
    assert "on all of photos: 7 queries of 2" in succeed(*command, "--keep-duplicates")

    assert "Expected `--image-size`" in fail("export", model)
    to = tmp_path / "versions"
    (to / "6").mkdir(parents=True)
    output = succeed("export", model, "--image-size", 16, "--output", to)
    assert f"Exported to {to / '7'}\n" in output
    served = tf.saved_model.load(str(to / "7")).signatures["serving_default"]
    path = photos / "class0" / "0.png"
    np.testing.assert_allclose(
        served(image_bytes=tf.constant([path.read_bytes()]))["embedding"],
        keras.saving.load_model(model).predict(
            ImageFiles([path], 16).load(), verbose=0
        ),
        atol=1e-5,
    )


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# What is written beforehand, the arguments, and what the message must say.
WRONG_TRAININGS = {
    "no such data": ({}, ["--data", "none"], "'none', which does not exist"),
    "no classes": ({"d/a.png": ""}, ["--data", "d"], "has no sub-folder"),
    "no images": ({"d/c/a.txt": ""}, ["--data", "d"], "without any image"),
    "only bad images": (
        {"d/a/a.png": "", "d/b/b.png": ""}, ["--data", "d"], "at least one readable"
    ),
    "no such table": ({}, ["--data", "t.csv"], "which is not a file"),
    "no columns": ({"t.csv": "a,b\n1,2\n"}, ["--data", "t.csv"], "no path and no"),
    "no rows": ({"t.csv": "path,label\n"}, ["--data", "t.csv"], "a line per image"),
    "unknown setting": ({"c.json": '{"epoch": 1}'}, ["--config", "c.json"], "epoch"),
    "wrong type": (
        {"c.json": '{"epochs": "1"}'}, ["--config", "c.json"], "type int"
    ),
    "corrupt JSON": ({"c.json": '{"epo'}, ["--config", "c.json"], "cannot be read"),
    "range": ({}, ["--num-bins", "1"], "`num_bins` to be at least 2"),
    "backbone": ({}, ["--backbone", "VGG99"], "backbone='VGG99'"),
    "not a backbone": ({}, ["--backbone", "resnet50"], "backbone='resnet50'"),
    "weights": ({}, ["--weights", "w.h5"], "'w.h5', which is not a file"),
    "bad weights": ({"w.h5": "x"}, ["--weights", "w.h5"], "'w.h5', which cannot be"),
    "used folder": (
        {"r/settings.json": '{"epochs": 3}'}, ["--run-dir", "r"], "or resume that run"
    ),
    "file as folder": ({"f": ""}, ["--run-dir", "f/run"], "Not a directory: 'f"),
    "nothing to resume": ({"r/x": ""}, ["--resume", "r"], "holds no `settings.json`"),
    "resume with settings": (
        {"r/settings.json": "{}"},
        ["--resume", "r", "--epochs", "3", "--run-dir", "x"],
        "--epochs, --run-dir",
    ),
    "damaged checkpoint": (
        {"r/settings.json": "{}", "r/last.keras": "PK"}, ["--resume", "r"],
        "Expected a whole `.keras` file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "args", "message"), WRONG_TRAININGS.values(), ids=WRONG_TRAININGS
)
def test_training_that_cannot_begin_is_explained(
    files, args, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        write(tmp_path / name, content)
    assert message in " ".join(fail("train", *args).split())
    assert not list(tmp_path.glob("runs/*"))


def test_wrong_models_are_explained(finished_run, tmp_path):
    broken = tmp_path / "cut.keras"
    broken.write_bytes((finished_run.folder / "model.keras").read_bytes()[:9999])
    for command in ("evaluate", "export"):
        message = fail(command, broken, "--image-size", 16)
        assert "Expected a whole `.keras` file" in message
        assert "Expected a run folder that holds" in fail(command, tmp_path)
        assert "does not exist" in fail(command, tmp_path / "none", code=2)
    message = fail("evaluate", finished_run.folder, "--split", "validation")
    assert "['test', 'train']" in message
    message = fail("evaluate", finished_run.folder, "--data", tmp_path / "none")
    assert "does not exist" in message
    target = write(tmp_path / "file", "")
    assert "'" in fail("export", finished_run.folder, "--output", target / "below")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "last.keras"),
        tf.errors.ResourceExhaustedError(None, None, "OOM\n\tin a node"),
        RuntimeError("Expected Keras to run on TensorFlow"),
        MemoryError(),
        UnicodeEncodeError("utf-8", "r\udce9n", 1, 2, "surrogates not allowed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_from_the_depths_is_a_sentence(monkeypatch, tmp_path, error):
    def train_run(*args, **kwargs):
        raise error

    monkeypatch.setattr(runs, "train_run", train_run)
    monkeypatch.chdir(tmp_path)
    message = fail("train")
    assert len(message.splitlines()) == 1


def test_names_that_are_not_utf8_are_printed(monkeypatch):
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
        monkeypatch.setattr(sys, name, stream)
    show_any_name()
    print_skipped("list.csv", [("caf\udce9.jpg", "it is damaged")])
    sys.stdout.flush()
    assert rb"  caf\udce9.jpg: it is damaged" in sys.stdout.buffer.getvalue()


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch, tmp_path):
    def train_run(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(runs, "train_run", train_run)
    monkeypatch.chdir(tmp_path)
    assert isinstance(invoke("train").exception, KeyError)


LONG_RUN = {
    "num_landmarks": 6,
    "num_test_landmarks": 4,
    "views_per_landmark": 4,
    "image_size": 16,
    "units": 8,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "steps_per_epoch": 12,
    "epochs": 8,
    "seed": 2,
}


def start_training(folder, settings=LONG_RUN):
    options = [text for item in settings.items() for text in as_option(*item)]
    return start(folder, "train", "--run-dir", "run", "--export-to", "", *options)


def rows_of(folder):
    folder = folder / "run"
    return history(folder) if (folder / "history.csv").exists() else []


def resume(folder):
    process = start(folder, "train", "--resume", "run", "--export-to", "")
    assert process.wait(300) == 0, (folder / "output.txt").read_text()


@pytest.mark.slow
def test_ctrl_c_while_images_are_read_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    settings = {**LONG_RUN, "num_landmarks": 200_000}
    process = start_training(tmp_path, settings)
    wait_until(process, (tmp_path / "run").exists)
    time.sleep(8)  # while the model is built
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    # No traceback, and not a line of TensorFlow.
    output = (tmp_path / "output.txt").read_text()
    assert output.splitlines() == [
        "Reading landmarks; the run folder is run",
        "",
        "Interrupted: nothing was written.",
    ]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert start_training(folder).wait(300) == 0
    return folder


def assert_same_run(folder, other):
    assert rows_of(folder) == rows_of(other)
    for name in ("last.keras", "best.keras"):
        assert_same_weights(folder / "run" / name, other / "run" / name)
    evaluations = [
        json.loads((path / "run" / "evaluation" / "evaluation.json").read_text())
        for path in (folder, other)
    ]
    assert evaluations[0] == evaluations[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_ends_as_an_unbroken_one(unbroken, tmp_path, seed):
    rng = np.random.default_rng([int(time.time()), seed])
    epochs = np.sort(rng.choice(np.arange(1, 7), 2, replace=False))
    print("killed after epochs", epochs)
    process = start_training(tmp_path)
    for epoch in epochs:
        wait_until(process, lambda epoch=epoch: len(rows_of(tmp_path)) >= epoch)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        process = start(tmp_path, "train", "--resume", "run", "--export-to", "")
    assert process.wait(300) == 0
    assert_same_run(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settings.json", "before.npy", "last.keras"])
def test_a_run_killed_in_its_first_epoch_ends_as_an_unbroken_one(
    unbroken, tmp_path, name
):
    process = start_training(tmp_path)
    wait_until(process, (tmp_path / "run" / name).exists)
    process.kill()
    process.wait()
    assert not rows_of(tmp_path)
    resume(tmp_path)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 3])
def test_ctrl_c_in_an_epoch_leaves_a_usable_run(unbroken, tmp_path, epoch):
    process = start_training(tmp_path)
    wait_until(process, (tmp_path / "run" / "last.keras").exists)
    wait_until(process, lambda: len(rows_of(tmp_path)) >= epoch)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    interrupted = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in interrupted
    assert "Interrupted: " in interrupted
    assert interrupted.endswith(
        "Resume with:  keras-aploss train --resume run --export-to ''\n"
    )
    last = tmp_path / "run" / "last.keras"
    output = succeed("evaluate", last)
    assert "16 queries of 4 classes never seen in training" in output
    given = "export", last, "--output", tmp_path / "models"
    state = re.search(r"(\d of 8 epochs) are finished", interrupted)[1]
    assert f"{state}. To finish a run: keras-aploss train --resume" in fail(*given)
    output = succeed(*given, "--unfinished")
    assert f"Exported to {tmp_path / 'models' / '1'}\n" in output
    assert f"It is the model after {state}." in output
    resume(tmp_path)
    assert_same_run(tmp_path, unbroken)


IN_CHUNKS = {**LONG_RUN, "epochs": 4, "num_chunks": 3, "workers": 2}


@pytest.mark.slow
def test_a_run_in_chunks_killed_at_a_random_step_ends_as_an_unbroken_one(tmp_path):
    rng = np.random.default_rng(int(time.time()))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert start_training(whole, IN_CHUNKS).wait(300) == 0
    seconds = float((whole / "run" / "history.csv").read_text().split(",")[-1])

    process = start_training(broken, IN_CHUNKS)
    wait_until(process, lambda: len(rows_of(broken)) == 1)
    time.sleep(rng.uniform(0, seconds))
    process.kill()
    process.wait()
    print("killed after epochs", len(rows_of(broken)))
    assert len(rows_of(broken)) < 4
    resume(broken)
    assert_same_run(broken, whole)
    assert load_model(broken / "run" / "last.keras", compile=True).num_chunks == 3


@pytest.mark.slow
def test_a_run_in_chunks_and_16_bits_trains_and_exports(tmp_path):
    options = {**LONG_RUN, "epochs": 2, "steps_per_epoch": 2}
    options |= {"images_per_class": 8, "num_chunks": 3}
    options["precision"] = "mixed_bfloat16"
    flags = [text for item in options.items() for text in as_option(*item)]
    folder, models = tmp_path / "run", tmp_path / "models"
    output = succeed("train", "--run-dir", folder, "--export-to", models, *flags)
    # The line of an epoch.
    lines = re.findall(r"loss: .*val_map: .*images/s: (\S+) - GiB: (\S+)\n", output)
    assert len(lines) == 2
    for speed, memory in lines:
        assert float(speed) > 1
        assert 0.1 < float(memory) < 100

    settings = RunSettings.load(folder / "settings.json")
    assert settings == dataclasses.replace(RunSettings(), **options)
    rows = history(folder)
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    last = load_model(folder / "last.keras", compile=True)
    assert last.num_chunks == 3
    weights = [np.asarray(weight) for weight in last.weights]
    assert all(np.isfinite(weight).all() for weight in weights)
    assert last.encoder.get_layer("projection").compute_dtype == "bfloat16"

    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), "uint8")
    served = tf.saved_model.load(str(models / "landmarks" / "1")).signatures["images"]
    embeddings = served(images=tf.constant(images, "float32"))["embedding"]
    expected = load_model(folder / "model.keras").predict(images, verbose=0)
    np.testing.assert_allclose(embeddings, expected, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_strategy_of_another_backend_is_explained(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    process = start(tmp_path, "train", "--strategy", "mirrored", "--run-dir", "run")
    assert process.wait(120) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "Error: Expected KERAS_BACKEND=tensorflow for strategy='mirrored'" in output
    assert "KERAS_BACKEND=jax. Set it" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_names_that_are_not_utf8_are_trained_on_and_listed(tmp_path):
    folder = os.fsencode(tmp_path / "photos")
    names = [
        f"{bird}/{n}.png" for bird in ("jay", "owl", "tern", "wren") for n in "123"
    ]
    write_photos(tmp_path / "photos", names)
    for bird in (b"jay", b"owl", b"tern", b"wren"):
        os.rename(os.path.join(folder, bird), os.path.join(folder, bird + b"\xe9"))
    with open(os.path.join(folder, b"jay\xe9", b"bad\xe9.jpg"), "wb") as file:
        file.write(b"no image")
    run, models = tmp_path / "run", tmp_path / "models"
    options = {"data": tmp_path / "photos", "image_size": 16, "units": 8, "epochs": 1}
    options |= {"classes_per_batch": 2, "images_per_class": 2, "steps_per_epoch": 1}
    options |= {"test_fraction": 0.5}
    flags = [text for item in options.items() for text in as_option(*item)]
    succeed("train", "--run-dir", run, "--export-to", models, *flags)
    assert b"jay\xe9/bad\xe9.jpg" in (run / "skipped.csv").read_bytes()
    metadata = (run / "tensorboard" / "retrieval" / "metadata.tsv").read_text("utf-8")
    page = (run / "evaluation" / "index.html").read_text("utf-8")
    assert all(
        line.split("\t")[0].endswith(r"\udce9") for line in metadata.splitlines()[1:]
    )
    assert r"jay\udce9" in page
    listed = (run / "split.csv").read_bytes()
    for bird in (b"jay", b"owl", b"tern", b"wren"):
        assert bird + b"\xe9/1.png" in listed
    succeed("evaluate", run)
    out = tmp_path / "embeddings.npy"
    succeed("extract", run, tmp_path / "photos", "--output", out)
    assert b"owl\xe9/1.png" in pathlib.Path(f"{out}.csv").read_bytes()
