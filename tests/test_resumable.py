"""Any producer and any format: what is interrupted is resumed, to the same result."""

import numpy as np
import pytest

from keras_aploss.embeddings import (
    EmbeddedBatch,
    NpyFile,
    ShardFolder,
    load_embeddings,
    read_shards,
    write_embeddings,
)

PATHS = [f"/photos/{number}.png" for number in range(10)]
ROWS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
BAD = 5  # has no embedding


class Producer:
    """Yields batches of two, and breaks down when it has yielded some."""

    def __init__(self, left=100):
        self.left, self.taken = left, []

    def __call__(self, part):
        for start in range(part.start, part.stop, 2):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            self.taken += range(start, min(start + 2, part.stop))
            images = range(start, min(start + 2, part.stop))
            skipped = {i - start: "it is damaged" for i in images if i == BAD}
            yield EmbeddedBatch(ROWS[[i for i in images if i != BAD]], skipped)


def npy_file(folder):
    return NpyFile(folder / "e.npy", len(PATHS), {"scales": [1.0]}, paths=PATHS)


def shard_folder(folder, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(
        "keras_aploss.embeddings.shard_folder.hash_files",
        lambda paths, workers: dict.fromkeys(paths, "9f2c"),
    )
    labels = [""] * len(PATHS)
    return ShardFolder(
        folder / "s", {"scales": [1.0]}, PATHS, labels, units=4, shard_size=4
    )


@pytest.mark.parametrize("format_", ["npy", "shards"])
def test_interrupted_anywhere_the_result_is_the_same(format_, tmp_path, monkeypatch):
    def output():
        if format_ == "npy":
            return npy_file(tmp_path)
        return shard_folder(tmp_path, monkeypatch)

    for batches in (0, 2, 1):
        with pytest.raises(KeyboardInterrupt) as error:
            write_embeddings(output(), Producer(batches))
        notes = getattr(error.value, "__notes__", [])
        assert bool(notes) == bool(batches)
    if format_ == "npy":
        assert "5 of 10 embeddings are written. Rerun the command" in notes[0]
    last = Producer()
    write_embeddings(output(), last)
    assert last.taken == list(range(6 if format_ == "npy" else 4, 10))
    again = output()
    write_embeddings(again, Producer(0))  # there is nothing left to produce
    assert (again.count, again.written) == (10, 9)
    assert again.skipped == [(PATHS[BAD], "it is damaged")]
    if format_ == "npy":
        found = load_embeddings(tmp_path / "e.npy")
    else:
        found = np.concatenate([s.vectors for s in read_shards(tmp_path / "s")])
    np.testing.assert_array_equal(found, np.delete(ROWS, BAD, axis=0))


def test_the_bar_counts_what_this_call_does(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(npy_file(tmp_path), Producer(2))
    write_embeddings(npy_file(tmp_path), Producer(), verbose=1)
    assert "6/6" in capsys.readouterr().out
