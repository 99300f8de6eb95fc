"""A file that is written in several goes."""

import json
import os
import pathlib
import resource
import signal

import keras
import numpy as np
import pytest

from keras_aploss.embeddings import load_embeddings
from keras_aploss.embeddings.resuming import EmbeddingsFile, is_begun, settings_of
from keras_aploss.images import ImageFiles, OriginalImages

ROWS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def write(path, start, stop, settings=None):
    """Append rows as one process does that ends after `stop`."""
    with EmbeddingsFile(path, len(ROWS), settings or {"scales": [1.0]}) as file:
        assert file.done == start
        for i in range(start, stop, 2):
            file.append(ROWS[i : i + 2])
    return file


def test_rows_of_several_goes_are_those_of_one(tmp_path):
    write(tmp_path / "a.npy", 0, 10).finish()
    for start, stop in ((0, 4), (4, 4), (4, 8), (8, 10)):
        file = write(tmp_path / "b.npy", start, stop)
        assert not (tmp_path / "b.npy").exists()
        assert is_begun(tmp_path / "b.npy")
    np.testing.assert_array_equal(file.finish(), ROWS)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.npy", "a.npy.json", "b.npy", "b.npy.json"]


def test_what_follows_the_last_note_is_written_again(tmp_path):
    write(tmp_path / "e.npy", 0, 6)
    with open(tmp_path / "e.npy.partial", "ab") as file:
        file.write(b"torn")
    write(tmp_path / "e.npy", 6, 10).finish()
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e.npy"), ROWS)


def test_rows_that_the_note_promises_must_be_there(tmp_path):
    write(tmp_path / "e.npy", 0, 6)
    os.truncate(tmp_path / "e.npy.partial", 150)
    with pytest.raises(ValueError, match=r"6 embeddings in .*150 bytes"):
        write(tmp_path / "e.npy", 6, 10)


@pytest.mark.parametrize("finished", [False, True])
def test_another_setting_is_named_and_nothing_lost(tmp_path, finished):
    path = tmp_path / "e.npy"
    file = write(path, 0, 10 if finished else 6, {"scales": [1.0], "power": None})
    if finished:
        file.finish()
    with pytest.raises(ValueError, match="scales") as error:
        write(path, 6, 10, {"scales": [1.0, 0.5], "power": None})
    assert "[1.0]. Received: scales=[1.0, 0.5]." in str(error.value)
    assert "power" not in str(error.value)
    if finished:
        np.testing.assert_array_equal(load_embeddings(path), ROWS)
    else:
        write(path, 6, 10, {"scales": [1.0], "power": None})


def test_a_file_without_a_note_is_not_touched(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="extracted here"):
        EmbeddingsFile(path, 10, {})
    pathlib.Path(f"{path}.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        EmbeddingsFile(path, 10, {})
    assert path.read_bytes() == before


def test_the_note_of_a_deleted_file_binds_nothing(tmp_path):
    path = tmp_path / "e.npy"
    write(path, 0, 10).finish()
    path.unlink()
    assert not is_begun(path)
    write(path, 0, 10, {"scales": [2.0]}).finish()
    np.testing.assert_array_equal(load_embeddings(path), ROWS)


def test_a_kill_before_the_first_note_begins_again(tmp_path):
    path = tmp_path / "e.npy"
    pathlib.Path(f"{path}.partial").write_bytes(b"\x93NUMPY header only")
    assert not is_begun(path)
    write(path, 0, 10).finish()
    np.testing.assert_array_equal(load_embeddings(path), ROWS)


def test_an_end_before_the_first_row_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="early"),
        EmbeddingsFile(tmp_path / "e.npy", 10, {}),
    ):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_the_second_is_refused(tmp_path):
    path = tmp_path / "e.npy"
    with EmbeddingsFile(path, 10, {}) as file:
        file.append(ROWS[:4])
        with (
            pytest.raises(ValueError, match="no other process"),
            EmbeddingsFile(path, 10, {}),
        ):
            pass
        file.append(ROWS[4:])
    np.testing.assert_array_equal(file.finish(), ROWS)


def test_a_full_disk_keeps_what_was_noted(tmp_path):
    """A limit on the size of files stands for the disk: writing fails as there."""
    path = tmp_path / "e.npy"
    settings = {"scales": [1.0]}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (  # noqa: PT012
            pytest.raises(OSError, match=r"Expected to write .*File too large"),
            EmbeddingsFile(path, 3000, settings) as file,
        ):
            file.append(ROWS)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
            for _ in range(299):
                file.append(ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    with EmbeddingsFile(path, 3000, settings) as file:
        assert file.done >= 10
        done = file.done
        for _ in range(done, 3000, 10):
            file.append(ROWS)
    np.testing.assert_array_equal(file.finish(), np.tile(ROWS, (300, 1)))


def test_too_little_room_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.statvfs_result([0] * 10))
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})
    )
    with (
        pytest.raises(OSError, match=r"room for 0\.0 MiB"),
        EmbeddingsFile(tmp_path / "e.npy", 10, {}) as file,
    ):
        file.append(ROWS[:1])


@pytest.mark.parametrize("name", ["e.txt", "nowhere/e.npy"])
def test_a_path_that_cannot_hold_them(tmp_path, name):
    with pytest.raises(ValueError, match="Expected a path"):
        EmbeddingsFile(tmp_path / name, 10, {})


def test_settings_tell_models_and_images_apart():
    def model(seed):
        dense = keras.layers.Dense(
            2, kernel_initializer=keras.initializers.HeNormal(seed)
        )
        return keras.Sequential([keras.Input((3,)), dense])

    one = model(0)
    files = OriginalImages(["a.jpg", "b.jpg"])
    base = settings_of(one, files, scales=[1.0])
    assert json.loads(json.dumps(base)) == base
    assert settings_of(model(0), files, scales=[1.0]) == base
    different = {
        "weights": settings_of(model(1), files, scales=[1.0]),
        "scales": settings_of(one, files, scales=[0.5]),
        "paths": settings_of(one, OriginalImages(["b.jpg", "a.jpg"]), scales=[1.0]),
        "max_size": settings_of(
            one, OriginalImages(files.paths, max_size=9), scales=[1.0]
        ),
        "boxes": settings_of(
            one, OriginalImages(files.paths, boxes=[None, (0, 0, 1, 1)]), scales=[1.0]
        ),
    }
    for name, other in different.items():
        assert [key for key in base if other[key] != base[key]] == [name]
    squares = settings_of(one, ImageFiles(files.paths, 8), scales=[1.0])
    assert squares["image_size"] == 8
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    assert settings_of(one, pixels) != settings_of(one, pixels + 1)
