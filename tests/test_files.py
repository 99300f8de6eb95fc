"""Files that are whole or not there, and locks that end with their process."""

import errno
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from keras_aploss import files
from keras_aploss.files import as_text, locked, replaced, replaced_path

on_posix = pytest.mark.skipif(os.name != "posix", reason="Linux and macOS")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    return path


def start(code, *arguments):
    """Run code in another process until it says that it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    return process


WRITE = """
import sys, time
from keras_aploss.files import replaced
with replaced(sys.argv[1]) as file:
    file.write("half")
    file.flush()
    print("begun", flush=True)
    time.sleep(60)
"""
HOLD = """
import sys, time
from keras_aploss.files import locked
with locked(sys.argv[1]):
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_name_can_be_shown_whatever_its_bytes_are():
    names = [b"caf\xe9.jpg", b"\xff\xfe", "é城".encode(), b"plain"]
    texts = [as_text(os.fsdecode(name)) for name in names]
    assert texts == [r"caf\udce9.jpg", r"\udcff\udcfe", "é城", "plain"]
    assert as_text("a\ud800b") == r"a\ud800b"  # as a name of Windows may hold it


def test_the_new_file_is_there_when_it_is_whole(path):
    with replaced(path) as file:
        file.write("ü")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "ü"
    with replaced(path, "wb") as file:
        file.write(b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(path.parent) == [path.name]


def test_an_error_leaves_the_old_file_alone(path):
    def write_half(error):
        with replaced(path) as file:
            file.write("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(error)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


@on_posix
def test_a_kill_leaves_the_old_file_and_what_it_left_goes_with_the_next(path):
    process = start(WRITE, path)
    with replaced(path.with_name("other.csv")):
        pass  # not what a living process writes
    assert len(os.listdir(path.parent)) == 3
    process.kill()
    process.wait()
    assert path.read_text() == "old"
    with replaced(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert sorted(os.listdir(path.parent)) == ["other.csv", path.name]


def test_a_full_disk_is_told_with_its_number(path):
    with (
        pytest.raises(OSError, match=r"table\.csv'.*No space left.*is kept") as caught,
        replaced(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(path.parent) == [path.name]


def test_an_error_of_another_file_is_left_as_it_is(path):
    with pytest.raises(FileNotFoundError, match="no_image"), replaced(path):
        os.stat("no_image.png")
    told = OSError("Expected to write something. Received: no room.")
    with pytest.raises(OSError, match="something") as caught, replaced(path):
        raise told
    assert caught.value is told


def test_a_folder_that_is_not_there_or_not_writable_is_told(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"Expected to write .*a\.csv'"),
        replaced(tmp_path / "nowhere" / "a.csv"),
    ):
        pass
    for place in (tmp_path, os.devnull):
        with pytest.raises(OSError, match="a folder or a device"), replaced(place):
            pass
    assert os.path.exists(os.devnull)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may all")
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(PermissionError, match="Expected to write"),
        replaced(tmp_path / "a.csv"),
    ):
        pass


@on_posix
def test_permissions_of_the_old_file_are_kept(path):
    path.chmod(0o640)
    with replaced(path) as file:
        file.write("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@on_posix
def test_a_symbolic_link_stays_one(path):
    link = path.parent / "deeper" / "link.csv"
    link.parent.mkdir()
    link.symlink_to(path)
    with replaced(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert os.listdir(link.parent) == [link.name]


def test_of_two_writers_the_last_wins_and_each_file_is_whole(path):
    with replaced(path) as one, replaced(path) as other:
        one.write("one" * 1000)
        other.write("other")
    assert path.read_text() == "one" * 1000
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["best.keras", "no suffix", "ü" * 125, "a" * 255])
def test_a_library_writes_to_a_path_of_the_same_suffix(tmp_path, name):
    with replaced_path(tmp_path / name) as unfinished:
        assert unfinished.name.endswith(pathlib.Path(name).suffix)
        unfinished.write_text("new")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "new"


@on_posix
def test_file_and_folder_are_brought_to_the_disk_in_this_order(path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def record(*arguments, name=name, original=original):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(*arguments).st_mode)
            done.append("folder" if is_folder else name)
            return original(*arguments)

        monkeypatch.setattr(files.os, name, record)
    with replaced(path):
        pass
    assert done == ["fsync", "replace", "folder"]


@on_posix
def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    lock = tmp_path / "photos.npy.lock"
    process = start(HOLD, lock)
    try:
        with (
            pytest.raises(BlockingIOError, match=rf"s\.npy'.* {process.pid} on "),
            locked(lock, "the file 'photos.npy'"),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(lock):  # the kernel has freed it
        pass
    assert os.listdir(tmp_path) == []


@on_posix
def test_a_lock_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "lock"):
            raise KeyError
    assert os.listdir(tmp_path) == []


@on_posix
def test_a_lock_that_its_holder_has_removed_is_taken_anew(tmp_path, monkeypatch):
    lock, flock = tmp_path / "lock", files._flock
    seen = []

    def removed_first(file, what):
        if not seen:
            os.remove(lock)  # by the holder, between opening and locking
        seen.append(what)
        flock(file, what)

    monkeypatch.setattr(files, "_flock", removed_first)
    with locked(lock):
        assert len(seen) == 2
        with pytest.raises(BlockingIOError), locked(lock):
            pass
