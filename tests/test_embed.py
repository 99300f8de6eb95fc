"""`keras-aploss embed`: what `extract` writes, from a server."""

import json
import signal
import time

import numpy as np
import pytest
from command_line import fail, read_table, start, succeed, wait_until, write_photos

from keras_aploss import export_saved_model, load_embeddings
from keras_aploss.runs.checkpoint import load_model
from keras_aploss.serving import client as embedding_client

pytest.importorskip("tensorflow_serving")
from model_server import Models, Trouble, grpc_server, rest_server


@pytest.fixture(scope="module")
def models(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = load_model(finished_run.folder / "model.keras")
    export_saved_model(model, folder, image_size=16)
    return Models(folder, "tiny")


@pytest.fixture(scope="module")
def server(models):
    with grpc_server(models) as address:
        yield address


@pytest.fixture
def photos(tmp_path):
    names = [f"é {number}.png" for number in range(5)]
    return write_photos(tmp_path / "my photos", names)


def test_it_writes_what_extract_writes(server, models, finished_run, photos, tmp_path):
    ours, theirs = tmp_path / "new" / "ours.npy", tmp_path / "theirs.npy"
    to = "--server", server, "--model", "tiny"
    shown = succeed("embed", photos, *to, "--output", ours, "--batch-size", 2)
    succeed("extract", finished_run.folder, photos, "--output", theirs)
    np.testing.assert_allclose(np.load(ours), np.load(theirs), atol=1e-5)
    assert load_embeddings(ours, count=5, units=8, check=True).dtype == np.float32
    assert read_table(f"{ours}.csv") == read_table(f"{theirs}.csv")
    skipped = [read_table(f"{path}.skipped.csv") for path in (ours, theirs)]
    assert [row[0] for row in skipped[0]] == [row[0] for row in skipped[1]]
    assert "cannot decode" in dict(skipped[0])[str(photos / "broken.jpg")]
    assert "2 files left out" in shown
    assert f"By version 1 of 'tiny' at {server}" in shown
    names = sorted(file.name for file in ours.parent.iterdir())
    others = sorted(file.name for file in tmp_path.glob("theirs.npy*"))
    assert names == [name.replace("theirs", "ours") for name in others]
    note = json.loads((ours.parent / "ours.npy.json").read_text())
    assert note["settings"]["model_version"] == 1
    assert "exists" in fail("embed", photos, *to, "--output", ours)


def test_files_and_lists_are_taken_in_order(models, photos, tmp_path):
    (photos / "list.txt").write_text("é 3.png\né 1.png\n", encoding="utf-8")
    given = photos / "é 4.png", photos / "list.txt", photos / "é 3.png"
    output = tmp_path / "some.npy"
    with rest_server(models) as address:
        to = "--server", address, "--model", "tiny", "--output", output
        succeed("embed", *given, *to, "--units", 8)
    paths = [str(photos / f"é {number}.png") for number in (4, 3, 1)]
    assert read_table(f"{output}.csv")[1:] == [[path] for path in paths]
    assert not (tmp_path / "some.npy.skipped.csv").exists()


def test_trouble_is_a_sentence_and_leaves_no_file(
    server, models, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(embedding_client, "_FIRST_WAIT", 0.01)
    output = tmp_path / "photos.npy"
    to = "--server", server, "--model", "tiny", "--output", output
    photo = photos / "é 0.png"
    down = "--server", "grpc://127.0.0.1:1", "--output", output
    assert "Expected a model server" in fail("embed", photo, *down)
    other = "--server", server, "--output", output
    assert "model='model'" in fail("embed", photo, *other)
    assert "does not exist" in fail("embed", photos / "none.png", *to)
    assert "(1, 128)" in fail("embed", photo, *to, "--units", 128)
    assert "none" not in fail("embed", photos / "broken.jpg", *to).split("Error")[0]
    assert "readable image" in fail("embed", photos / "broken.jpg", *to)
    text = "--server", server, "--output", tmp_path / "photos.txt"
    assert "ends in '.npy'" in fail("embed", photo, *text)
    models.trouble = Trouble(seconds=1.0)
    try:
        assert "within 0.2 s" in fail("embed", photo, *to, "--timeout", 0.2)
    finally:
        models.trouble = Trouble()
    assert [path.name for path in tmp_path.iterdir()] == [photos.name]


@pytest.fixture
def many(tmp_path):
    return write_photos(
        tmp_path / "many", [f"{number:02d}.png" for number in range(24)]
    )


def asked(models):
    """How many files the server was sent since it was asked last."""
    count = sum(len(r.inputs["image_bytes"].string_val) for r in models.requests)
    models.requests.clear()
    return count


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
def test_a_stopped_embed_goes_on(number, server, models, many, tmp_path):
    def arguments(name):
        to = "--server", server, "--model", "tiny", "--batch-size", 2
        return "embed", many, *to, "--workers", 1, "--output", tmp_path / name

    asked(models)
    succeed(*arguments("unbroken.npy"))
    whole = asked(models)
    models.trouble = Trouble(seconds=0.2)
    try:
        process = start(tmp_path, *arguments("stopped.npy"))
        wait_until(process, (tmp_path / "stopped.npy.json").exists)
        process.send_signal(number)
        process.wait(60)
    finally:
        models.trouble = Trouble()
    assert not (tmp_path / "stopped.npy").exists()
    if number == signal.SIGINT:
        said = (tmp_path / "output.txt").read_text()
        assert "of 25 embeddings are written. Rerun the command to" in said
    time.sleep(1)  # what it was sent before the kill
    asked(models)
    succeed(*arguments("stopped.npy"))
    assert 0 < asked(models) < whole
    for suffix in ("", ".csv", ".skipped.csv"):
        unbroken = (tmp_path / f"unbroken.npy{suffix}").read_bytes()
        assert (tmp_path / f"stopped.npy{suffix}").read_bytes() == unbroken


def test_a_server_that_goes_down_costs_nothing(models, many, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_client, "_FIRST_WAIT", 0.01)
    output, answer, left = tmp_path / "many.npy", models.predict, [3]

    def for_a_while(request):
        left[0] -= 1
        models.trouble.unavailable = int(left[0] < 0)
        return answer(request)

    monkeypatch.setattr(models, "predict", for_a_while)
    with grpc_server(models) as address:
        to = "--server", address, "--model", "tiny", "--batch-size", 2
        command = "embed", many, *to, "--workers", 1, "--output", output
        said = fail(*command, "--retries", 1)
        assert "6 of 25 embeddings are written. Rerun the command to resume" in said
        left[0] = 100
        # A newer version must not embed the rest.
        monkeypatch.setitem(models.versions, 2, models.versions[1])
        monkeypatch.setitem(models.labels, "stable", 2)
        other = fail(*command, "--model-version", 2)
        assert "model_version=1. Received: model_version=2" in other
        models.requests.clear()
        succeed(*command, "--model-label", "stable")
    assert {r.model_spec.version.value for r in models.requests} == {1}
    sent = [n for r in models.requests for n in r.inputs["image_bytes"].string_val]
    assert len(set(sent)) == 25 - 6
    assert load_embeddings(output, count=24, units=8, check=True).shape == (24, 8)
    assert len(read_table(f"{output}.csv")) == 25
