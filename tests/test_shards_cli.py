"""`keras-aploss extract --engine ray`, and from its shards into an index."""

import os
import signal

import numpy as np
import pytest
from command_line import fail, read_table, start, succeed, wait_until, write_photos
from PIL import Image
from ray_workers import embedding_workers, still_run

from keras_aploss import VectorIndex, retrieval_model
from keras_aploss.embeddings import read_shards

pytest.importorskip("ray")
pytest.importorskip("pyarrow")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["crow/a b.png", "crow/new\nline.png", "jäy/ü.png", "jäy/1.png", "top.png"]
    return write_photos(tmp_path / "photos", names)


def test_options_of_one_engine_are_refused_by_the_other(finished_run, photos):
    given = "extract", finished_run.folder, photos, "--output"
    for option in (("--workers", 2), ("--address", "auto"), ("--shard-size", 3)):
        message = fail(*given, "a.npy", *option)
        assert f"Expected `--engine ray` beside {option[0]}" in message
    assert "Expected a folder" in fail(*given, "a.npy", "--engine", "ray")
    assert "ends in '.npy'" in fail(*given, "shards")


def test_no_folder_is_made_for_what_cannot_begin(finished_run, photos):
    given = "extract", finished_run.folder, photos, "--output", "s", "--engine", "ray"
    message = fail(*given, "--address", "127.0.0.1:1")
    assert "Expected a Ray cluster at '127.0.0.1:1'" in message
    os.mkdir("empty")
    nothing = "extract", finished_run.folder, "empty", "--output", "s"
    assert "which has none" in fail(*nothing, "--engine", "ray")
    assert not os.path.exists("s")


def extract(folder, *arguments, code=0):
    """What `extract` printed, in a process of its own: threads of Ray print, too."""
    (folder / "output.txt").unlink(missing_ok=True)
    process = start(folder, "extract", *arguments)
    process.wait(300)
    shown = (folder / "output.txt").read_text()
    assert process.returncode == code, shown
    assert "Traceback" not in shown
    return shown


@pytest.mark.slow
def test_from_images_to_shards_to_an_index(finished_run, photos, tmp_path):
    """The folder, indexed afterwards, has nothing left to embed."""
    # Imported here, since within a command that is tested they keep its streams.
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    model = finished_run.folder
    ray = "--engine", "ray", "--workers", 1, "--shard-size", 2
    given = model, "photos", "--output", "shards", *ray
    shown = extract(tmp_path, *given)
    assert "shards: 5 embeddings in 3 shards" in shown
    assert "shards/_skipped.csv: 2 files left out" in shown
    assert [row[0] for row in read_table("shards/_skipped.csv")[1:]] == [
        str(photos / "broken.jpg"),
        "photos/other.webp",
    ]
    succeed("extract", model, "photos", "--output", "one.npy")
    paths = [os.path.abspath(path) for (path,) in read_table("one.npy.csv")[1:]]
    shards = list(read_shards("shards"))
    assert [path for shard in shards for path in shard.paths] == paths
    vectors = np.concatenate([shard.vectors for shard in shards])
    np.testing.assert_allclose(vectors, np.load("one.npy"), atol=1e-6)

    other = retrieval_model("small_resnet", units=8)
    other.save("other.keras")
    message = fail("index", "shards", "--model", "other.keras")
    with pytest.raises(ValueError, match="does not exist"):
        VectorIndex("images.db")  # none was made
    assert message.count("fingerprint") == 2
    shown = succeed("index", "shards", "--model", model)
    assert "images.db: 5 images. 5 added from shards." in shown
    assert "recall@10 against exact search: 1.000" in shown
    assert "0 added from shards" in succeed("index", "shards", "--no-recall")
    shown = succeed("index", "photos", "--no-recall")
    assert "5 images. 0 embedded, 0 moved or copied, 5 unchanged, 0 deleted" in shown
    found = succeed("search", photos / "jäy" / "ü.png", "--top", 1)
    assert f"1.0000 jäy {photos / 'jäy' / 'ü.png'}" in " ".join(found.split())

    for option, setting in (
        (("--image-size", 24), "fingerprint="),
        (("--scales", "1,0.5"), "scales=[1.0]. Received: scales=[1.0, 0.5]"),
        (("--max-size", 24), "kind='ImageFiles'"),
    ):
        assert setting in fail("extract", *given, *option)
    # Shards are a list of images, too; not squares, they cannot be searched.
    whole = "--output", "whole", "--engine", "ray", "--original-size"
    extract(tmp_path, model, "shards", *whole)
    assert [s.labels for s in read_shards("whole")] == [
        [label for shard in shards for label in shard.labels]
    ]
    message = fail("index", "whole", "--index", "w.db", "--model", model)
    assert "Expected embeddings of square crops at one scale" in message
    assert not os.path.exists("w.db")


@pytest.fixture
def many(tmp_path):
    """A folder of 240 images, and the arguments that embed them in 30 shards."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(240):
        pixels = rng.integers(0, 256, (64, 64, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return "--original-size", "--scales", "1,2,3", "--engine", "ray", "--shard-size", 8


def parts(folder):
    return sorted(folder.glob("part-*.parquet"))


def check(model, tmp_path):
    """The shards hold what one process computes."""
    one = "--output", tmp_path / "one.npy", "--original-size", "--scales", "1,2,3"
    succeed("extract", model, tmp_path / "photos", *one)
    vectors = np.concatenate([s.vectors for s in read_shards(tmp_path / "shards")])
    np.testing.assert_allclose(vectors, np.load(tmp_path / "one.npy"), atol=1e-6)
    assert not list((tmp_path / "shards").glob(".*"))


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_shard(finished_run, many, tmp_path):
    shards = tmp_path / "shards"
    given = "extract", finished_run.folder, tmp_path / "photos", "--output", shards
    process = start(tmp_path, *given, *many, "--workers", 2)
    wait_until(process, lambda: len(parts(shards)) > 2)
    victim = embedding_workers(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(300) == 0
    assert "240 embeddings in 30 shards" in (tmp_path / "output.txt").read_text()
    check(finished_run.folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_extraction_that_was_stopped_goes_on(finished_run, many, tmp_path, number):
    shards = tmp_path / "shards"
    given = "extract", finished_run.folder, tmp_path / "photos", "--output", shards
    process = start(tmp_path, *given, *many, "--workers", 2)
    wait_until(process, lambda: len(parts(shards)) > 2)
    workers = embedding_workers(process.pid)
    assert len(workers) == 2
    assert "Expected no other process that has" in fail(*given, *many)
    process.send_signal(number)
    process.wait(60)
    assert not still_run(workers)
    shown = (tmp_path / "output.txt").read_text()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "of 240 embeddings are written. Rerun the command to" in shown
        assert "Traceback" not in shown
    done = {path: path.stat().st_mtime_ns for path in parts(shards)}
    assert 2 < len(done) < 30
    shown = extract(tmp_path, *given[1:], *many, "--workers", 1)
    assert "240 embeddings in 30 shards" in shown
    assert {path: path.stat().st_mtime_ns for path in done} == done
    check(finished_run.folder, tmp_path)
