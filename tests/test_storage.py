"""Files of embeddings: whole or refused; blocks that do not fill the memory."""

import errno

import numpy as np
import pytest

from keras_aploss.embeddings import load_embeddings, whiten_embeddings
from keras_aploss.embeddings.storage import row_blocks, rows_per_block, save_blocks

ROWS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "e.npy", ROWS)
    return tmp_path / "e.npy"


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4"])
def test_floats_of_any_size_are_mapped_read_only(path, dtype):
    np.save(path, ROWS.astype(dtype))
    embeddings = load_embeddings(path, count=20, units=3, check=True)
    assert isinstance(embeddings, np.memmap)
    np.testing.assert_array_equal(embeddings, ROWS.astype(dtype))
    with pytest.raises(ValueError, match="read-only"):
        embeddings[0] = 0


def test_columns_in_memory_order_are_read_right(path):
    np.save(path, np.asfortranarray(ROWS))
    np.testing.assert_array_equal(load_embeddings(path), ROWS)


@pytest.mark.parametrize("kept", [0, 5, 60, 128, 200, -1])
def test_a_file_cut_short_anywhere_is_refused(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"e\.npy"):
        load_embeddings(path)


def test_what_follows_the_rows_is_refused(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="372 bytes"):
        load_embeddings(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[None, "x"]], object), "of object"),
        (np.zeros((2, 3), int), "int64"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.zeros((0, 3)), "at least one"),
        (np.zeros((2, 0)), "at least one"),
    ],
)
def test_other_arrays_are_refused(path, array, message):
    np.save(path, array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        load_embeddings(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "e.npy").write_text("no array")
    with pytest.raises(ValueError, match=r"`\.npy` file"):
        load_embeddings(tmp_path / "e.npy")
    np.savez(tmp_path / "archive.npz", ROWS)
    with pytest.raises(ValueError, match=r"`\.npy` file"):
        load_embeddings(tmp_path / "archive.npz")
    with pytest.raises(ValueError, match="Check its spelling"):
        load_embeddings(tmp_path / "nowhere.npy")
    (tmp_path / "nowhere.npy.partial").touch()
    with pytest.raises(ValueError, match="not finished"):
        load_embeddings(tmp_path / "nowhere.npy")


def test_embeddings_of_another_list_or_model_are_refused(path):
    with pytest.raises(ValueError, match=r"Expected 21 embeddings.*with 20"):
        load_embeddings(path, count=21)
    with pytest.raises(ValueError, match=r"of 4 units.*with 3"):
        load_embeddings(path, units=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_found_if_asked_for(path, bad):
    rows = ROWS.copy()
    rows[17, 1] = bad
    np.save(path, rows)
    load_embeddings(path)
    with pytest.raises(ValueError, match="in row 17"):
        load_embeddings(path, check=True)


def test_large_finite_values_are_finite(path):
    np.save(path, np.full((2, 8), np.finfo(np.float32).max))
    assert load_embeddings(path, check=True).shape == (2, 8)


def test_blocks_are_copies_that_cover_all_rows(path):
    embeddings = load_embeddings(path)
    blocks = list(row_blocks(embeddings, 7))
    assert [start for start, _ in blocks] == [0, 7, 14]
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), ROWS)
    assert rows_per_block(10**9) == 1


def test_giving_pages_back_loses_nothing_that_was_written(path):
    private = np.load(path, mmap_mode="c")
    private[3] = 7  # in the memory only
    shared = np.load(path, mmap_mode="r+")
    shared[5] = 8
    for embeddings, row, value in ((private, 3, 7), (shared, 5, 8)):
        for view in (embeddings, embeddings[1:]):
            for _ in row_blocks(view, 2):
                pass
        assert (embeddings[row] == value).all()


def test_blocks_collect_in_memory_or_in_a_file(tmp_path):
    out = tmp_path / "e.npy"
    for written in (None, out):
        blocks = (ROWS[i : i + 6] for i in range(0, 20, 6))
        np.testing.assert_array_equal(save_blocks(blocks, (20, 3), written), ROWS)
    np.testing.assert_array_equal(np.load(out), ROWS)


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path):
    def blocks():
        yield ROWS
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"e\.npy', of 0\.0 MiB.*No space.*Make room"):
        save_blocks(blocks(), (40, 3), tmp_path / "e.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not __import__("os").path.exists("/dev/full"), reason="Linux")
def test_a_device_without_room_is_no_traceback():
    with pytest.raises(OSError, match="Expected to write"):
        whiten_embeddings(ROWS, (np.zeros(3), np.eye(3)), out="/dev/full/e.npy")
