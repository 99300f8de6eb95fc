"""Indexes in Milvus Lite and on a server: kept, locked, killed, and full disks."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from command_line import ROOT, wait_until
from processes import started
from test_vector_index import UNITS, fill, unit_rows, with_ties

from keras_aploss import VectorIndex, top_k

pytest.importorskip("milvus_lite")
pytest.importorskip("pymilvus")


def in_a_process(folder, code, **options):
    """Start Python code that finds `unit_rows`, `index` and `np`."""
    start = """
        import sys, time, resource, signal
        import numpy as np
        from test_vector_index import fill, unit_rows
        from keras_aploss import VectorIndex
    """
    code = textwrap.dedent(start) + textwrap.dedent(code)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return started(
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
    )


def test_an_index_is_there_again(tmp_path):
    vectors = unit_rows(50)
    notes = {"model": "m.keras"}
    path = tmp_path / "i.db"
    with VectorIndex(path, units=UNITS, fingerprint="f1", notes=notes) as index:
        fill(index, vectors)
    with VectorIndex(path) as index:
        assert (index.units, index.fingerprint) == (UNITS, "f1")
        assert (index.notes, index.index_type) == (notes, "FLAT")
        assert len(index) == 50
        assert index.search(vectors[[7]], 1)[0][0].path == "00007.jpg"
        copy = index.in_memory()
    assert copy.search(vectors[[7]], 1)[0][0].path == "00007.jpg"
    assert copy.fingerprint == "f1"


@pytest.mark.parametrize("is_there", [True, False])
def test_an_index_without_images_can_be_taken_back(tmp_path, is_there):
    path = tmp_path / "i.db"
    if is_there:
        path.mkdir()
    VectorIndex(path, units=UNITS, fingerprint="f1").discard_if_empty()
    assert path.exists() is is_there
    with VectorIndex(path, units=8, fingerprint="f2") as index:  # of another model
        fill(index, unit_rows(3, units=8))
        index.discard_if_empty()
    with VectorIndex(path) as index:
        index.delete([image.path for image in index.images()])
        index.discard_if_empty()  # it was not made here
    with VectorIndex(path) as index:
        assert (len(index), index.fingerprint) == (0, "f2")


def test_another_model_is_refused_with_both_fingerprints(tmp_path):
    path = tmp_path / "i.db"
    fill(VectorIndex(path, units=UNITS, fingerprint="f1"), unit_rows(3)).close()
    with pytest.raises(ValueError, match=r"fingerprint f1\. Received: .* f2: other"):
        VectorIndex(path, units=UNITS, fingerprint="f2")
    with pytest.raises(ValueError, match=r"of 16 units, .* Received: units=8"):
        VectorIndex(path, units=8, fingerprint="f1")
    with VectorIndex(path, units=UNITS, fingerprint="f1") as index:
        assert len(index) == 3


def test_of_two_at_once_the_second_is_refused_clearly(tmp_path, caplog):
    path = tmp_path / "i.db"
    with VectorIndex(path, units=UNITS) as index:
        with pytest.raises(OSError, match="Expected no other process that has"):
            VectorIndex(path, units=UNITS)
        fill(index, unit_rows(3))  # the first goes on
    assert caplog.text == ""
    with VectorIndex(path) as index:
        assert len(index) == 3


def test_a_kill_loses_nothing_that_was_added(tmp_path):
    writer = in_a_process(
        tmp_path,
        """
        index = VectorIndex("i.db", units=16)
        rows = unit_rows(1000)
        for start in range(0, 1000, 10):
            paths = [f"{i:05d}.jpg" for i in range(start, start + 10)]
            fill(index, rows[start : start + 10], paths)
            print(start + 10, flush=True)
            if start == 100:
                index.flush()
        """,
    )
    done = 0
    while done < 200:
        line = writer.stdout.readline()
        assert line
        done = int(line) if line.strip().isdecimal() else done
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate()
    done = max([done, *map(int, rest.split())])
    with VectorIndex(tmp_path / "i.db") as index:
        images = index.images()
        assert done <= len(images) <= 1000
        paths = [image.path for image in images]
        assert paths[:done] == [f"{i:05d}.jpg" for i in range(done)]
        vectors = index.get(paths[:done])
        np.testing.assert_array_equal(
            [vectors[path][1] for path in paths[:done]], unit_rows(1000)[:done]
        )
        fill(index, unit_rows(1000))
    with VectorIndex(tmp_path / "i.db") as index:
        assert len(index) == 1000


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40_000, 200_000])
def test_a_full_disk_is_told_and_loses_nothing(tmp_path, limit):
    """A limit on the size of files stands for the disk: writing fails as there."""
    writer = in_a_process(
        tmp_path,
        f"""
        import logging
        logging.disable(logging.CRITICAL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        index = VectorIndex("i.db", units=16)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        rows = unit_rows(4000)
        for start in range(0, 4000, 50):
            paths = [f"{{i:05d}}.jpg" for i in range(start, start + 50)]
            try:
                fill(index, rows[start : start + 50], paths)
            except OSError as error:
                print("REFUSED", error)
                try:
                    fill(index, rows[:1])
                except OSError as error:
                    print("AGAIN", error)
                break
            print(start + 50, flush=True)
        index.close()
        """,
    )
    output, _ = writer.communicate(timeout=120)
    assert "REFUSED Expected to write to the index 'i.db'. Received: " in output
    assert "Make room if the disk is full" in output
    assert "AGAIN Expected to write to 'i.db' after a write that succeeded" in output
    done = max(int(line) for line in output.splitlines() if line.isdecimal())
    assert done >= 50
    with VectorIndex(tmp_path / "i.db") as index:
        paths = [image.path for image in index.images()]
        assert paths[:done] == [f"{i:05d}.jpg" for i in range(done)]
        fill(index, unit_rows(4000))
    with VectorIndex(tmp_path / "i.db") as index:
        assert len(index) == 4000


@pytest.fixture
def server(tmp_path):
    """The address of a server in a process of its own, as a cluster would have it."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["server", "--data-dir", str(tmp_path / "data"), "--port", str(port)]
    process = started(
        subprocess.Popen(
            [sys.executable, "-m", "milvus_lite", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )

    def answers():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_until(process, answers, 60)
    return f"http://127.0.0.1:{port}"


def test_a_server_answers_as_a_file_does_and_has_several_indexes(server):
    vectors, queries = with_ties(), unit_rows(4, 5)
    with (
        VectorIndex(server, units=UNITS, fingerprint="f1") as index,
        VectorIndex(server, name="others", units=4) as others,
    ):
        fill(index, vectors)
        fill(others, unit_rows(3, units=4))
        with VectorIndex(server, fingerprint="f1") as second:  # at the same time
            fill(second, vectors[:10])
            assert len(second) == len(index) == len(vectors)
            found = second.search(queries, 7)
        assert len(others) == 3
    expected, _ = top_k(queries, vectors, 7)
    ours = [[int(image.path[:5]) for image in images] for images in found]
    np.testing.assert_array_equal(ours, expected)
    with pytest.raises(ValueError, match="fingerprint f1"):
        VectorIndex(server, units=UNITS, fingerprint="f2")


def test_a_server_that_is_down_is_told(monkeypatch):
    from keras_aploss.search import milvus

    monkeypatch.setattr(milvus, "_SECONDS", 1.0)
    with pytest.raises(
        OSError, match=r"Expected to open the index 'http://127.*server"
    ):
        VectorIndex("http://127.0.0.1:1", units=UNITS)
