"""The folder that workers fill: whose it is, what is missing, and how it goes on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import read_table
from processes import started

from keras_aploss.embeddings import EmbeddedBatch, ShardFolder, read_shards
from keras_aploss.embeddings.shards import read_about, shard_path
from keras_aploss.images import SkippedImage, hash_files

pytest.importorskip("pyarrow")

LABELS = [f"l{number % 2}" for number in range(10)]
SETTINGS = {"fingerprint": "1a", "scales": [1.0]}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Ten files; of their contents only the hash is looked at here."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(10):
        (folder / f"{number}\n.png").write_text(str(number))
    return [str(folder / f"{number}\n.png") for number in range(10)]


@pytest.fixture
def open_folder(tmp_path, paths):
    def function(path=tmp_path / "shards", settings=SETTINGS, shard_size=4, **options):
        return ShardFolder(
            path, settings, paths, LABELS, units=2, shard_size=shard_size, **options
        )

    return function


def fill(work, number, skipped=None):
    """What a worker writes for a shard of which some files cannot be read."""
    paths, _ = work.writer.images(number)
    skipped = skipped or {}
    batch = EmbeddedBatch(np.ones((len(paths) - len(skipped), 2)), skipped)
    return work.writer.write(number, [batch])


def test_each_worker_finds_its_images(open_folder, paths):
    with open_folder() as work:
        assert work.missing_shards == [0, 1, 2]
        assert work.missing == [range(0, 4), range(4, 8), range(8, 10)]
        found = [work.writer.images(number) for number in work.missing_shards]
    assert [path for some, _ in found for path in some] == paths
    assert [label for _, labels in found for label in labels] == LABELS


@pytest.mark.parametrize("contents", [None, b""])
def test_a_list_of_images_that_was_lost_is_written_again(open_folder, paths, contents):
    with open_folder() as work:
        fill(work, 0)
    images = os.path.join(work.path, "_images.parquet")
    os.remove(images)
    if contents is not None:
        open(images, "wb").close()
    with open_folder() as work:
        assert work.missing_shards == [1, 2]
        assert work.writer.images(1) == (paths[4:8], LABELS[4:8])


def test_only_what_is_missing_is_left_to_do(open_folder, paths):
    bad = SkippedImage(paths[5], "it is damaged")
    other = SkippedImage("a.webp", "its format is not read")
    with open_folder() as work:
        assert fill(work, 1, {1: bad.reason}) == (3, [bad])
    with open_folder(left_out=[other]) as work:
        assert (work.missing_shards, work.written) == ([0, 2], 3)
        assert work.skipped == [bad, other]
        fill(work, 0)
        fill(work, 2)
        work.look()
        assert work.missing == []
        work.finish()
    listed = read_table(os.path.join(work.path, "_skipped.csv"))
    assert listed == [["path", "reason"], list(bad), list(other)]
    with open_folder() as work:
        assert (work.missing, work.written) == ([], 9)
    (_, shard, _) = read_shards(work.path)
    assert (shard.paths, shard.labels) == ([paths[4], *paths[6:8]], ["l0", "l0", "l1"])
    assert shard.ids == [hash_files([path], 1)[path] for path in shard.paths]


def test_a_file_that_is_deleted_before_it_is_hashed_is_left_out(open_folder, paths):
    with open_folder() as work:
        os.rename(paths[8], paths[8] + ".gone")
        rows, skipped = fill(work, 2)
        os.rename(paths[8] + ".gone", paths[8])
    assert (rows, skipped[0].path) == (1, paths[8])
    assert "it cannot be opened: No such file" in skipped[0].reason


def test_a_damaged_shard_is_to_be_written_again(open_folder):
    with open_folder() as work:
        fill(work, 0)
        fill(work, 1)
    os.truncate(shard_path(work.path, 1), 50)
    with open_folder() as work:
        assert work.missing_shards == [1, 2]


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
def test_other_settings_are_refused_and_named(open_folder, other, message):
    with open_folder() as work:
        fill(work, 0)
    with pytest.raises(ValueError, match="Expected the settings") as error:
        open_folder(**other).__enter__()
    assert message in str(error.value)
    with open_folder() as work:
        assert work.missing_shards == [1, 2]


def test_a_shard_of_another_extraction_is_refused(open_folder, tmp_path):
    with open_folder(tmp_path / "other", {"fingerprint": "2b"}) as other:
        fill(other, 1)
    with open_folder() as work:
        os.rename(shard_path(other.path, 1), shard_path(work.path, 1))
    with pytest.raises(ValueError, match=r"part-000001\.parquet', which is of another"):
        open_folder().__enter__()


def test_a_folder_of_other_things_is_not_touched(open_folder, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"which holds 'photo\.png' and no"):
        open_folder(tmp_path).__enter__()
    assert os.listdir(tmp_path) == ["photo.png"]
    os.rename(tmp_path / "photo.png", tmp_path / "_manifest.json")
    with pytest.raises(ValueError, match="no readable"):
        open_folder(tmp_path).__enter__()
    assert (tmp_path / "_manifest.json").read_bytes() == b"mine"


def test_a_first_try_that_was_killed_begins_again(open_folder, tmp_path):
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
    assert read_about(shard_path(tmp_path, 0))["settings"] == work.writer.digest


def test_of_two_writers_the_second_is_refused(open_folder):
    with (
        open_folder(),
        pytest.raises(OSError, match="no other process"),
        open_folder(),
    ):
        pass
    with open_folder() as work:
        assert work.missing_shards == [0, 1, 2]


@pytest.mark.slow
def test_a_writer_that_was_killed_frees_the_folder(open_folder, paths, tmp_path):
    code = (
        "import time\n"
        "from keras_aploss.embeddings import ShardFolder\n"
        f"given = {str(tmp_path / 'shards')!r}, {SETTINGS!r}, {paths!r}, {LABELS!r}\n"
        "with ShardFolder(*given, units=2, shard_size=4):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    other = started(subprocess.Popen(command, stdout=subprocess.PIPE))
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(OSError, match="no other process"):
        open_folder().__enter__()
    other.kill()
    other.wait()
    with open_folder() as work:
        assert work.missing_shards == [0, 1, 2]
