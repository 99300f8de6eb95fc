"""`keras-aploss index` and `keras-aploss search`: a folder, an index, a table."""

import os
import pathlib
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
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
        (
            ("search", "top.png"),
            "does not exist. Make it with `keras-aploss index FOLDER`, or",
        ),
        (("search", "top.png", "--index", "x"), "a path that ends in `.db`"),
    ],
)
def test_without_an_index_the_way_to_one_is_told(photos, arguments, message):
    assert message in fail(*arguments)
    assert not pathlib.Path("images.db").exists()


def test_what_is_no_image_is_told(finished_run, photos):
    extra()
    given = "--model", finished_run.folder
    told = fail("index", "nowhere", *given, code=2)
    assert "Directory 'nowhere' does not exist" in told
    pathlib.Path("empty").mkdir()
    assert "Nothing was deleted" in fail("index", "empty", *given)
    assert "'images.db', which does not exist" in fail("search", photos / "top.png")
    succeed("index", photos, *given, "--no-recall")
    assert "Expected a readable image" in fail("search", photos / "broken.jpg")
    assert "nowhere.png" in fail("search", "nowhere.png")


def test_a_failed_index_binds_nothing(photos):
    extra()
    sums = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    sums.save("no_embeddings.keras")
    message = fail(
        "index", photos, "--model", "no_embeddings.keras", "--image-size", 16
    )
    assert "unit length" in message
    assert not pathlib.Path("images.db").exists()


@pytest.fixture
def gift(photos):
    """An index of others, to whose note a test gives a model."""
    extra()
    model = retrieval_model("small_resnet", units=8)
    paths = [str(photos / "top.png")]

    def give(location, noted, **notes):
        with VectorIndex(
            location,
            units=8,
            fingerprint=model_fingerprint(model, 16),
            notes={"model": noted, "image_size": 16, **notes},
        ) as index:
            index.add(["1"], embed(model, ImageFiles(paths, 16)), paths)
        return photos / "top.png", "--index", location

    return model, give


class Wrote(tf.Module):
    """An embedding whose computation writes a file."""

    def __init__(self, path):
        self.path = path

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def embed(self, images):
        tf.io.write_file(self.path, "written")
        return {"embedding": tf.ones([tf.shape(images)[0], 8]) / 8**0.5}


def test_a_program_that_an_index_names_is_not_run_without_a_word(gift, tmp_path):
    _, give = gift
    trap = Wrote(str(tmp_path / "sprung"))
    tf.saved_model.save(trap, "elsewhere", signatures={"images": trap.embed})
    asked = give("gift.db", str(tmp_path / "elsewhere"))
    tf.saved_model.save(trap, "gift.db/inside", signatures={"images": trap.embed})
    another = give("other.db", str(tmp_path / "other.db" / "inside"))
    pathlib.Path("gift.db/inside").rename("other.db/inside")
    for given in (asked, another):
        message = fail("search", *given)
        assert "Expected `--model`" in message
        assert "a SavedModel, which is a program" in message
        assert "a SavedModel" in fail("index", "photos", *given[1:])
    assert not (tmp_path / "sprung").exists()
    fail("search", *asked, "--model", "elsewhere", "--image-size", 16)  # of the user
    assert (tmp_path / "sprung").exists()  # the trap works


def test_a_model_in_the_folder_of_an_index_is_not_loaded_without_a_word(gift, tmp_path):
    model, give = gift
    inside = tmp_path / "gift.db" / "model.keras"
    asked = give("gift.db", str(inside))
    model.save(inside)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").symlink_to(inside)
    linked = give("linked.db", str(tmp_path / "linked.db" / "run"))
    (tmp_path / "linked.db" / "run").symlink_to(tmp_path / "run")
    for given in (asked, linked):
        assert "in the folder of the index" in fail("search", *given)
    assert "1.0000" in succeed("search", *asked, "--model", inside, "--image-size", 16)


@pytest.mark.parametrize("noted", [["m.keras"], None])
def test_a_note_of_another_kind_is_told(gift, noted):
    _, give = gift
    assert "Give `--model`" in fail("search", *give("gift.db", noted))


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
