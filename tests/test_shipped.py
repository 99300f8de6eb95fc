"""The model that comes with the package: where it is found, and what opens it."""

import configparser
import hashlib
import pathlib
import shutil

import pytest
from command_line import fail, succeed, write_photos

from keras_aploss import VectorIndex
from keras_aploss.runs import SHIPPED, is_shipped, shipped, shipped_model

ROOT = pathlib.Path(__file__).parents[1]
needs_the_model = pytest.mark.skipif(
    not (ROOT / "saved_models" / "photos" / "SHA256SUMS").exists(),
    reason="saved_models/photos/1 is not in this checkout",
)


@pytest.fixture
def above(finished_run, tmp_path, monkeypatch):
    """A clone, of which the shipped model is that of a tiny run; and elsewhere."""
    clone = tmp_path / "clone"
    monkeypatch.setattr(shipped, "_ABOVE", clone)
    monkeypatch.setattr(shipped, "_recorded", lambda: [])
    ship(finished_run, clone / "saved_models" / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return clone


def ship(run, folder):
    shutil.copytree(run.saved_model, folder / "1")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
        f"{path.relative_to(folder).as_posix()}\n"
        for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_it_is_found_in_a_clone_and_in_an_installation(above, monkeypatch):
    folder = above / "saved_models"
    assert shipped_model() == folder / "photos" / "1"
    installed = above / "share" / "keras_aploss"
    installed.mkdir(parents=True)
    folder.rename(installed / "saved_models")  # of `pip install --target`
    assert shipped_model() == installed / "saved_models" / "photos" / "1"
    moved = above / "prefix"
    installed.rename(moved)
    monkeypatch.setattr(shipped, "_recorded", lambda: [moved / "saved_models"])
    assert shipped_model() == moved / "saved_models" / "photos" / "1"


def test_where_it_is_missing_the_places_are_told(above):
    (above / "saved_models" / "photos" / "SHA256SUMS").unlink()
    # What a training on a folder called photos writes is not taken for it.
    assert (above / "saved_models" / "photos" / "1" / "saved_model.pb").exists()
    with pytest.raises(FileNotFoundError, match="or give `--model`") as raised:
        shipped_model()
    for place in ("saved_models", "share/keras_aploss/saved_models"):
        assert str(above / place / "photos" / "1") in str(raised.value)


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, pathlib.Path.touch])
def test_other_files_than_those_that_were_shipped_are_refused(above, damage):
    file = above / "saved_models" / "photos" / "1" / "fingerprint.pb"
    file.unlink()
    file.touch()
    damage(file)
    with pytest.raises(ValueError, match=r"another '1/fingerprint\.pb', or none"):
        shipped_model()
    assert not is_shipped(file.parent)


@pytest.mark.slow
def test_three_commands_need_no_model(above):
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    photos = write_photos(pathlib.Path("photos"), ["crow/a.png", "jay/b.png"])
    query = photos / "crow" / "a.png"
    shown = succeed("index", photos)
    assert "Model: photos/1 of keras_aploss (" in shown
    assert "), 16 px\n" in shown  # that of the export
    assert "images.db: 2 images" in shown
    assert shown.endswith("Search it:  keras-aploss app\n")
    (above / "share" / "keras_aploss").mkdir(parents=True)
    models = above / "saved_models"
    moved = models.rename(above / "moved")
    for command in (("index", photos, "--index", "new.db"), ("search", query)):
        assert "comes with keras_aploss, photos/1. Received: none" in fail(*command)
    # An upgrade may have put it to another place.
    moved.rename(above / "share" / "keras_aploss" / "saved_models")
    assert "1.0000" in succeed("search", query)
    assert "2 unchanged" in succeed("index", photos)
    with VectorIndex("images.db") as index:
        assert index.notes == {"model": SHIPPED, "image_size": 16}


@pytest.mark.slow
def test_its_path_is_its_name(above):
    """Of other SavedModels an index has to be told again, at each query."""
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    photos = write_photos(pathlib.Path("photos"), ["crow/a.png"])
    shutil.copytree(shipped_model(), "copy/1")
    query = photos / "crow" / "a.png"
    succeed("index", photos, "--index", "a.db", "--model", shipped_model())
    assert "1.0000" in succeed("search", query, "--index", "a.db")
    succeed("index", photos, "--index", "b.db", "--model", "copy/1")
    message = fail("search", query, "--index", "b.db")
    assert "a SavedModel, which is a program" in message


@needs_the_model
def test_an_installation_has_each_of_its_files_once():
    """The wheel is not built here: `setup.cfg` says what goes where."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    installed = {}
    for folder, patterns in setup["options.data_files"].items():
        for pattern in patterns.split(","):
            for path in ROOT.glob(pattern.strip()):
                assert installed.setdefault(path, folder) == folder
    photos = ROOT / "saved_models" / "photos"
    names = [line.split("  ")[1] for line in (photos / "SHA256SUMS").open()]
    expected = {photos / name.strip() for name in names}
    expected |= {photos / "README.md", photos / "SHA256SUMS"}
    assert installed == {
        path: f"share/keras_aploss/{path.parent.relative_to(ROOT).as_posix()}"
        for path in expected
    }


@needs_the_model
def test_the_checkout_has_it_whole():
    assert shipped_model() == ROOT / "saved_models" / "photos" / "1"
    assert is_shipped(ROOT / "saved_models" / "photos" / "1")
