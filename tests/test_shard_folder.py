"""The folder that workers fill: whose it is, what is missing, and how it goes on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import read_table
from processes import started

from keras_aploss.embeddings import EmbeddingShard
from keras_aploss.embeddings.shard_folder import (
    ShardFolder,
    read_images,
    write_skipped,
)
from keras_aploss.embeddings.shards import read_about, shard_path, write_shard
from keras_aploss.images import SkippedImage

pytest.importorskip("pyarrow")

PATHS = [f"/photos/{number}\n.png" for number in range(10)]
LABELS = [f"l{number % 2}" for number in range(10)]
SETTINGS = {"fingerprint": "1a", "scales": [1.0]}


def open_folder(path, settings=SETTINGS, paths=PATHS, shard_size=4):
    return ShardFolder(
        path, settings, paths, LABELS[: len(paths)], shard_size=shard_size
    )


def fill(work, number, skipped=()):
    """What a worker writes for a shard of which some files cannot be read."""
    paths, labels = read_images(work.path, number)
    good = [path for path in paths if path not in dict(skipped)]
    shard = EmbeddingShard(good, np.ones((len(good), 2)), good, labels[: len(good)])
    about = {"settings": work.digest, "skipped": list(skipped)}
    write_shard(shard_path(work.path, number), shard, about)


def test_each_worker_finds_its_images(tmp_path):
    with open_folder(tmp_path / "new" / "shards") as work:
        assert work.missing == [0, 1, 2]
        found = [read_images(work.path, number) for number in work.missing]
    assert [len(paths) for paths, _ in found] == [4, 4, 2]
    assert [path for paths, _ in found for path in paths] == PATHS
    assert [label for _, labels in found for label in labels] == LABELS


def test_only_what_is_missing_is_left_to_do(tmp_path):
    bad = SkippedImage(PATHS[5], "it is damaged")
    with open_folder(tmp_path) as work:
        fill(work, 1, [bad])
    with open_folder(tmp_path) as work:
        assert (work.missing, work.written, work.skipped) == ([0, 2], 3, [bad])
        fill(work, 0)
        fill(work, 2)
        assert work.look() == []
        work.finish()
    assert read_table(tmp_path / "_skipped.csv") == [["path", "reason"], list(bad)]
    with open_folder(tmp_path) as work:
        assert (work.missing, work.written) == ([], 9)


def test_a_damaged_shard_is_to_be_written_again(tmp_path):
    with open_folder(tmp_path) as work:
        fill(work, 0)
        fill(work, 1)
    os.truncate(shard_path(tmp_path, 1), 50)
    with open_folder(tmp_path) as work:
        assert work.missing == [1, 2]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"settings": {**SETTINGS, "fingerprint": "2b"}},
            "was begun: fingerprint='1a'. Received: fingerprint='2b'.",
        ),
        ({"settings": {**SETTINGS, "scales": [0.5]}}, "Received: scales=[0.5]."),
        ({"shard_size": 5}, "begun: shard_size=4. Received: shard_size=5."),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, other, message):
    with open_folder(tmp_path) as work:
        fill(work, 0)
    with pytest.raises(ValueError, match="Expected the settings") as error:
        open_folder(tmp_path, **other).__enter__()
    assert message in str(error.value)
    with open_folder(tmp_path) as work:
        assert work.missing == [1, 2]


def test_a_shard_of_another_extraction_is_refused(tmp_path):
    with open_folder(tmp_path / "other", {"fingerprint": "2b"}) as other:
        fill(other, 1)
    with open_folder(tmp_path / "shards") as work:
        os.rename(shard_path(other.path, 1), shard_path(work.path, 1))
    with pytest.raises(ValueError, match=r"part-000001\.parquet', which is of another"):
        open_folder(tmp_path / "shards").__enter__()


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"which holds 'photo\.png' and no"):
        open_folder(tmp_path).__enter__()
    assert os.listdir(tmp_path) == ["photo.png"]
    os.rename(tmp_path / "photo.png", tmp_path / "_manifest.json")
    with pytest.raises(ValueError, match="no readable"):
        open_folder(tmp_path).__enter__()
    assert (tmp_path / "_manifest.json").read_bytes() == b"mine"


def test_a_first_try_that_was_killed_begins_again(tmp_path):
    with open_folder(tmp_path):
        pass
    (tmp_path / "_manifest.json").unlink()  # it is written last
    (tmp_path / "._manifest.json.1.unfinished").write_text("{")
    with open_folder(tmp_path, {"fingerprint": "2b"}) as work:
        for number in range(3):
            fill(work, number)
        work.look()
        work.finish()
    assert not list(tmp_path.glob(".*"))
    manifest = json.loads((tmp_path / "_manifest.json").read_text())
    assert manifest["settings"]["fingerprint"] == "2b"
    assert read_about(shard_path(tmp_path, 0))["settings"] == work.digest


def test_of_two_writers_the_second_is_refused(tmp_path):
    with (
        open_folder(tmp_path),
        pytest.raises(ValueError, match="no other process"),
        open_folder(tmp_path),
    ):
        pass
    with open_folder(tmp_path) as work:
        assert work.missing == [0, 1, 2]


@pytest.mark.slow
def test_a_writer_that_was_killed_frees_the_folder(tmp_path):
    code = (
        "import sys, time\n"
        "from keras_aploss.embeddings.shard_folder import ShardFolder\n"
        f"lists = {PATHS!r}, {LABELS!r}\n"
        f"with ShardFolder({str(tmp_path)!r}, {SETTINGS!r}, *lists, shard_size=4):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    other = started(subprocess.Popen(command, stdout=subprocess.PIPE))
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="no other process"):
        open_folder(tmp_path).__enter__()
    other.kill()
    other.wait()
    with open_folder(tmp_path) as work:
        assert work.missing == [0, 1, 2]


def test_names_of_skipped_files_keep_their_bytes(tmp_path):
    name = os.fsdecode(b"/caf\xe9.png")
    write_skipped(tmp_path, [SkippedImage(name, "its name is not UTF-8")])
    assert b"/caf\xe9.png" in (tmp_path / "_skipped.csv").read_bytes()
    write_skipped(tmp_path, [])
    assert not (tmp_path / "_skipped.csv").exists()
