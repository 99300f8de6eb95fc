"""`keras-aploss index` and `keras-aploss search`: a folder, an index, a table."""

import os
import pathlib
import signal

import numpy as np
import pytest
from command_line import fail, start, succeed, wait_until
from PIL import Image

from keras_aploss import ImageFiles, VectorIndex, embed, retrieval_model, top_k
from keras_aploss.embeddings import model_fingerprint
from keras_aploss.runs.checkpoint import load_model


def draw(path, seed, side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), "uint8")
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Six photos with names that are hard to print, and a broken file."""
    monkeypatch.chdir(tmp_path)
    names = ["crow/a b.png", "crow/new\nline.png", "crow/[red]x.png"]
    names += ["jäy/ü.png", "jäy/1.png", "top.png"]
    for number, name in enumerate(names):
        draw(tmp_path / "photos" / name, number)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def extra():
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")


def test_an_image_finds_those_of_the_folder(finished_run, photos):
    extra()
    shown = succeed("index", photos, "--model", finished_run.folder)
    assert "images.db: 6 images. 6 embedded, 0 moved or copied, 0 unchanged" in shown
    assert "1 files left out" in shown
    assert "recall@10 against exact search: 1.000" in shown
    query = photos / "jäy" / "ü.png"
    shown = succeed("search", query, "--top", 4)  # model and size are the index's
    with VectorIndex("images.db") as index:
        images, vectors = index.embeddings()
    paths = [image.path for image in images]
    embeddings = embed(
        load_model(finished_run.folder / "model.keras"), ImageFiles(paths, 16)
    )
    np.testing.assert_allclose(vectors, embeddings, atol=1e-5)
    place = paths.index(str(query))
    indices, similarities = top_k(embeddings[[place]], embeddings, 4)
    expected = [
        f"{similarity:.4f} {images[i].label} {paths[i]}".replace("\n", r"\n").split()
        for i, similarity in zip(indices[0], similarities[0], strict=True)
    ]
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert lines[:2] == [str(query).split(), ["similarity", "label", "path"]]
    assert lines[3:] == expected


def test_results_can_be_restricted_and_queries_expanded(finished_run, photos):
    extra()
    succeed("index", photos, "--model", finished_run.folder, "--no-recall")
    query = photos / "top.png"
    shown = succeed("search", query, "--label", "jäy", "--label", "nothing")
    assert shown.count("jäy/") == 2
    assert "crow" not in shown
    plain, expanded = (
        succeed("search", query, query, *options).splitlines()
        for options in ((), ("--expand", 3, "--alpha", 1))
    )
    assert len(plain) == len(expanded)
    assert plain != expanded


def test_the_index_follows_the_folder(finished_run, photos):
    extra()
    succeed("index", photos, "--model", finished_run.folder, "--index", "a/b.db")
    (photos / "top.png").rename(photos / "jäy" / "top.png")
    (photos / "crow" / "a b.png").unlink()
    draw(photos / "new.png", 9)
    shown = succeed("index", photos, "--index", "a/b.db")
    assert "6 images. 1 embedded, 1 moved or copied, 4 unchanged, 2 deleted" in shown


def test_another_model_and_another_size_are_refused(finished_run, photos):
    extra()
    succeed("index", photos, "--model", finished_run.folder, "--no-recall")
    retrieval_model("small_resnet", units=8).save("other.keras")
    with VectorIndex("images.db") as index:
        here = index.fingerprint
    for command in ("index", "search"):
        image = photos if command == "index" else photos / "top.png"
        other = "--model", "other.keras", "--image-size", 16
        for options in (other, ("--image-size", 24)):
            message = fail(command, image, *options)
            assert f"fingerprint {here}." in message
            assert "Received: a model with the fingerprint " in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "top.png"), "'images.db', which does not exist. Make it with"),
        (("index", "."), "'images.db', which does not exist. Make it with"),
        (("search", "top.png", "--index", "x"), "a path that ends in `.db`"),
        (("index", "."), "'images.db', which does not exist"),
    ],
)
def test_without_an_index_the_way_to_one_is_told(photos, arguments, message):
    assert message in fail(*arguments)
    assert not pathlib.Path("images.db").exists()


def test_what_is_no_image_is_told(finished_run, photos):
    extra()
    given = "--model", finished_run.folder
    assert "Expected a folder of images" in fail("index", "nowhere", *given)
    pathlib.Path("empty").mkdir()
    assert "Nothing was deleted" in fail("index", "empty", *given)
    assert "Received: 'images.db', which is empty" in fail("search", photos / "top.png")
    succeed("index", photos, *given, "--no-recall")
    assert "Expected a readable image" in fail("search", photos / "broken.jpg")
    assert "nowhere.png" in fail("search", "nowhere.png")


def test_a_model_that_is_gone_is_asked_for(photos):
    extra()
    retrieval_model("small_resnet", units=8).save("m.keras")
    succeed("index", photos, "--model", "m.keras", "--image-size", 16, "--no-recall")
    pathlib.Path("m.keras").rename("elsewhere.keras")
    message = fail("search", photos / "top.png")
    assert "m.keras'. Received: nothing there. Give `--model`" in message
    given = "--model", "elsewhere.keras", "--image-size", 16
    assert "1.0000" in succeed("search", photos / "top.png", *given)


def test_an_index_made_in_python_is_searched_with_its_model(photos):
    extra()
    model = retrieval_model("small_resnet", units=8)
    model.save("m.keras")
    with VectorIndex(
        "images.db", units=8, fingerprint=model_fingerprint(model, 16)
    ) as index:
        paths = [str(photos / "top.png"), str(photos / "crow" / "a b.png")]
        index.add(["1", "2"], embed(model, ImageFiles(paths, 16)), paths)
    assert "Give `--model`" in fail("search", photos / "top.png")
    given = "--model", "m.keras", "--image-size", 16
    assert "1.0000" in succeed("search", photos / "top.png", *given)
    assert "6 images. 6 embedded" in succeed("index", photos, *given)


def test_without_the_extra_its_name_is_told(finished_run, photos, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    message = fail("index", photos, "--model", finished_run.folder)
    assert "pip install 'keras_aploss[search]'" in message


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_broken_off_run_goes_on_where_it_was(finished_run, photos, tmp_path, end):
    extra()
    for number in range(3000):
        draw(photos / "many" / f"{number}.png", number + 50, side=16)
    given = "index", photos, "--model", finished_run.folder, "--no-recall"
    first = start(tmp_path, *given)
    wal = tmp_path / "images.db" / "collections" / "images" / "wal"

    def has_rows():
        return wal.exists() and sum(p.stat().st_size for p in wal.iterdir()) > 80_000

    wait_until(first, has_rows)
    second = fail("search", photos / "top.png")
    assert "Expected no other process that has the index" in second
    os.kill(first.pid, end)
    first.wait(60)
    if end == signal.SIGINT:
        shown = (tmp_path / "output.txt").read_text()
        assert "images are in the index. Rerun the command to resume" in shown
        assert "Traceback" not in shown
    shown = succeed(*given)
    unchanged = int(shown.split(" unchanged")[0].split()[-1].replace(",", ""))
    embedded = int(shown.split(" embedded")[0].split()[-1].replace(",", ""))
    assert unchanged >= 256
    assert unchanged + embedded == 3006
