"""A file that is written in several goes."""

import contextlib
import os
import pathlib
import resource
import signal
import time

import numpy as np
import pytest
from command_line import read_table

from keras_aploss.embeddings import (
    EmbeddedBatch,
    NpyFile,
    load_embeddings,
    npy_file,
)
from keras_aploss.embeddings.npy_file import begun_settings
from keras_aploss.images import SkippedImage

ROWS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def batches(start, stop, rows=ROWS, size=2):
    for i in range(start, stop, size):
        yield EmbeddedBatch(rows[i : i + size])


def write(path, start, stop, settings=None):
    """Append rows as one process does that ends after `stop`."""
    with NpyFile(path, len(ROWS), settings or {"scales": [1.0]}) as file:
        assert file.written == start
        assert file.missing == [range(start, 10)]
        file.write(range(start, 10), batches(start, stop))
        if stop == 10:
            file.finish()
    return file


def test_rows_of_several_goes_are_those_of_one(tmp_path):
    write(tmp_path / "a.npy", 0, 10)
    for start, stop in ((0, 4), (4, 4), (4, 8), (8, 10)):
        assert not (tmp_path / "b.npy").exists()
        file = write(tmp_path / "b.npy", start, stop)
        assert begun_settings(tmp_path / "b.npy")["scales"] == [1.0]
    np.testing.assert_array_equal(file.load(), ROWS)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.npy", "a.npy.json", "b.npy", "b.npy.json"]


def test_what_follows_the_last_note_is_written_again(tmp_path):
    write(tmp_path / "e.npy", 0, 6)
    with open(tmp_path / "e.npy.partial", "r+b") as file:
        file.seek(-60, os.SEEK_END)
        file.write(b"torn")
    write(tmp_path / "e.npy", 6, 10)
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e.npy"), ROWS)


def test_rows_that_the_note_promises_must_be_there(tmp_path):
    write(tmp_path / "e.npy", 0, 6)
    os.truncate(tmp_path / "e.npy.partial", 150)
    with pytest.raises(ValueError, match=r"6 embeddings in .*150 bytes"):
        write(tmp_path / "e.npy", 6, 10)


@pytest.mark.parametrize("finished", [False, True])
def test_another_setting_is_named_and_nothing_lost(tmp_path, finished):
    path = tmp_path / "e.npy"
    write(path, 0, 10 if finished else 6, {"scales": [1.0], "power": None})
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
        NpyFile(path, 10, {})
    pathlib.Path(f"{path}.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        NpyFile(path, 10, {})
    assert path.read_bytes() == before


def test_the_note_of_a_deleted_file_binds_nothing(tmp_path):
    path = tmp_path / "e.npy"
    write(path, 0, 10)
    path.unlink()
    assert not begun_settings(path)
    write(path, 0, 10, {"scales": [2.0]})
    np.testing.assert_array_equal(load_embeddings(path), ROWS)


def test_a_kill_before_the_first_note_begins_again(tmp_path):
    path = tmp_path / "e.npy"
    pathlib.Path(f"{path}.partial").write_bytes(b"\x93NUMPY header only")
    assert not begun_settings(path)
    write(path, 0, 10)
    np.testing.assert_array_equal(load_embeddings(path), ROWS)


def test_an_end_before_the_first_row_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="early"),
        NpyFile(tmp_path / "e.npy", 10, {}),
    ):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_the_second_is_refused(tmp_path):
    path = tmp_path / "e.npy"
    with NpyFile(path, 10, {}) as file:
        file.write(range(10), batches(0, 4))
        with pytest.raises(OSError, match="no other process"), NpyFile(path, 10, {}):
            pass
        file.write(range(4, 10), batches(4, 10))
        file.finish()
    np.testing.assert_array_equal(file.load(), ROWS)


def test_what_another_process_has_finished_meanwhile_is_taken(tmp_path):
    late = NpyFile(tmp_path / "e.npy", 10, {"scales": [1.0]})
    write(tmp_path / "e.npy", 0, 10)
    with late:
        assert late.missing == []
        late.finish()
    np.testing.assert_array_equal(late.load(), ROWS)
    assert not (tmp_path / "e.npy.partial").exists()


PATHS = [f"{number}.jpg" for number in range(12)]


def read_some(part):
    """Of twelve images, some of which have no row."""
    bad = {0: "first", 3: "it is damaged", 11: "last"}
    rows = iter(ROWS[part.start - sum(i < part.start for i in bad) :])
    for start in range(part.start, part.stop, 3):
        numbers = range(start, min(start + 3, part.stop))
        skipped = {i - start: bad[i] for i in numbers if i in bad}
        good = [next(rows) for i in numbers if i not in bad]
        yield EmbeddedBatch(np.reshape(good, (-1, 4)), skipped)


@pytest.mark.parametrize("stop", [3, 6, 9, 12])
def test_files_without_rows_are_listed_interrupted_or_not(tmp_path, stop):
    path = tmp_path / "e.npy"
    left_out = [SkippedImage("a.webp", "its format is not read")]
    for part in (range(0, stop), range(stop, 12)):
        with NpyFile(path, 12, {}, paths=PATHS, left_out=left_out) as file:
            file.write(part, read_some(part))
    if stop < 12:
        assert not (tmp_path / "e.npy.csv").exists()
    with NpyFile(path, 12, {}, paths=PATHS, left_out=left_out) as file:
        assert file.missing == []
        file.finish()
    np.testing.assert_array_equal(load_embeddings(path, count=9), ROWS[:9])
    kept = [name for i, name in enumerate(PATHS) if i not in (0, 3, 11)]
    assert read_table(f"{path}.csv") == [["path"], *([name] for name in kept)]
    skipped = [["0.jpg", "first"], ["3.jpg", "it is damaged"], ["11.jpg", "last"]]
    skipped.append(list(left_out[0]))
    assert read_table(f"{path}.skipped.csv") == [["path", "reason"], *skipped]
    again = NpyFile(path, 12, {}, paths=PATHS, left_out=left_out)
    assert list(map(list, again.skipped)) == skipped
    with pytest.raises(ValueError, match="paths="):
        NpyFile(path, 12, {}, paths=PATHS[::-1])


def emptied(path):
    path.write_bytes(b"")


def cut(path):
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + '\n"a')


@pytest.mark.parametrize("lose", [pathlib.Path.unlink, emptied, cut])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_list_that_was_lost_is_written_again(tmp_path, lose, is_finished):
    path = tmp_path / "e.npy"
    names = [tmp_path / "e.npy.csv", tmp_path / "e.npy.skipped.csv"]
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        file.write(range(12), read_some(range(12)))
        file.finish()
    written = [name.read_bytes() for name in names]
    for name in names:
        lose(name)
    if not is_finished:  # as after a kill just before the file has its name
        os.replace(path, f"{path}.partial")
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        assert file.missing == []
        file.finish()
    assert [name.read_bytes() for name in names] == written
    np.testing.assert_array_equal(load_embeddings(path), ROWS[:9])


def test_what_was_added_to_a_list_stays(tmp_path):
    path = tmp_path / "e.npy"
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        file.write(range(12), read_some(range(12)))
        file.finish()
    kept = [name for (name,) in read_table(f"{path}.csv")[1:]]
    labelled = "path,label\n" + "".join(f"{name},crow\n" for name in kept)
    pathlib.Path(f"{path}.csv").write_text(labelled)
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        file.finish()
    assert pathlib.Path(f"{path}.csv").read_text() == labelled


def test_a_kill_while_the_file_gets_its_name_costs_nothing(tmp_path, monkeypatch):
    """Its header and its size are those of the rows by then, and not of the images."""
    path = tmp_path / "e.npy"
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        file.write(range(12), read_some(range(12)))
    with (
        monkeypatch.context() as patch,
        contextlib.suppress(KeyboardInterrupt),
        NpyFile(path, 12, {}, paths=PATHS) as file,
    ):
        patch.setattr(os, "replace", replace_notes_only)
        file.finish()
    assert not path.exists()
    with NpyFile(path, 12, {}, paths=PATHS) as file:
        assert (file.missing, file.written) == ([], 9)
        file.finish()
    np.testing.assert_array_equal(load_embeddings(path), ROWS[:9])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_any_moment_cost_no_row(tmp_path, monkeypatch):
    """Each process is killed while it writes rows, notes, lists or the last name."""
    monkeypatch.setattr(npy_file, "_SECONDS_AT_RISK", 0.0)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 16)).astype(np.float32)
    bad = dict.fromkeys(range(0, 3000, 7), "it is damaged")
    paths = [f"{number}.jpg" for number in range(3000)]
    good = [number for number in range(3000) if number not in bad]

    def batches(part):
        for start in range(part.start, part.stop, 8):
            numbers = range(start, min(start + 8, part.stop))
            skipped = {i - start: bad[i] for i in numbers if i in bad}
            yield EmbeddedBatch(rows[[i for i in numbers if i not in bad]], skipped)

    def write(path):
        with NpyFile(path, 3000, {"scales": [1.0]}, paths=paths) as file:
            for part in file.missing:
                file.write(part, batches(part))
            file.finish()

    path, kills = tmp_path / "e.npy", 0
    while kills < 22 or not path.exists():
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                write(path)
            os._exit(0)
        time.sleep(rng.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        if path.exists() and kills < 22:
            for file in tmp_path.iterdir():  # begin again
                file.unlink()
        assert kills < 2000
    write(path)
    np.testing.assert_array_equal(load_embeddings(path, count=len(good)), rows[good])
    assert read_table(f"{path}.csv")[1:] == [[paths[number]] for number in good]
    left_out = [[paths[number], bad[number]] for number in bad]
    assert read_table(f"{path}.skipped.csv")[1:] == left_out


def replace_notes_only(source, target, replace=os.replace):
    if str(target).endswith(".npy"):
        raise KeyboardInterrupt
    replace(source, target)


def test_without_a_readable_image_nothing_is_left(tmp_path):
    reasons = {0: "the file is empty", 1: "it is damaged"}
    with (  # noqa: PT012
        pytest.raises(ValueError, match=r"2 files, none .*'0\.jpg': the file is empty"),
        NpyFile(tmp_path / "e.npy", 2, {}, paths=PATHS[:2]) as file,
    ):
        file.write(range(2), [EmbeddedBatch(np.zeros((0, 0)), reasons)])
        file.finish()
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def limited_files(size):
    """A limit on the size of files stands for the disk: writing fails as there."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path):
    path, rows = tmp_path / "e.npy", np.tile(ROWS, (300, 1))
    with (
        limited_files(4096),
        pytest.raises(OSError, match=r"Expected to write .*File too large"),
        NpyFile(path, 3000, {}) as file,
    ):
        file.write(range(3000), batches(0, 3000, rows, 100))
    assert list(tmp_path.iterdir()) == []
    with NpyFile(path, 3000, {}) as file:
        file.write(range(3000), batches(0, 3000, rows, 100))
        file.finish()
    np.testing.assert_array_equal(file.load(), rows)


def test_a_full_disk_keeps_what_was_noted(tmp_path, monkeypatch):
    path, rows = tmp_path / "e.npy", np.tile(ROWS, (300, 1))
    settings = {"scales": [1.0] * 30}  # the note is longer than the limit
    monkeypatch.setattr(npy_file, "_SECONDS_AT_RISK", 0)
    with NpyFile(path, 3000, settings) as file:
        file.write(range(3000), batches(0, 1000, rows, 100))
    with (
        limited_files(100),
        pytest.raises(OSError, match=r"Expected to write .*e\.npy\.json.*too large"),
        NpyFile(path, 3000, settings) as file,
    ):
        file.write(range(1000, 3000), batches(1000, 3000, rows, 100))
    with NpyFile(path, 3000, settings) as file:
        assert file.written == 1000
        file.write(range(1000, 3000), batches(1000, 3000, rows, 100))
        file.finish()
    np.testing.assert_array_equal(file.load(), rows)


def test_where_room_cannot_be_reserved_it_is_looked_for(tmp_path, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})
    )
    with (
        pytest.raises(OSError, match=r"room for 0\.0 MiB"),
        NpyFile(tmp_path / "e.npy", 10, {}) as file,
    ):
        file.write(range(10), batches(0, 2))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.delattr(os, "posix_fallocate")
    write(tmp_path / "e.npy", 0, 10)


@pytest.mark.parametrize("name", ["e.txt", "nowhere/e.npy"])
def test_a_path_that_cannot_hold_them(tmp_path, name):
    with pytest.raises(ValueError, match="Expected a path"):
        NpyFile(tmp_path / name, 10, {})
