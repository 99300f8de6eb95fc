"""Embeddings in `.npy` files: larger than the memory, whole or refused.

A million embeddings of 2048 units are 8 GB. They lie in one `.npy` file, are mapped
into memory and go through every step block by block. A file that was cut short, lists
other images or holds NaN gives rankings that look like rankings; so it is checked when
it is opened.

Dimension key: N embeddings, D units.
"""

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_aploss.evaluation import check_unit_length
from keras_aploss.files import replaced

# 16 MiB of float32: enough for a fast matrix product, little beside the process.
_BLOCK_VALUES = 2**22
_MAX_ROWS = 4096
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_embeddings(
    path: str | os.PathLike,
    *,
    count: int | None = None,
    units: int | None = None,
    check: bool = False,
) -> np.ndarray:
    """Map a `.npy` file of embeddings into memory, read-only.

    Nothing is read but the header, unless `check` is true.

    Args:
        path: file of `(N, D)` floats, as `extract_embeddings` or `np.save` write it.
        count: N as it must be: the number of images in the list that it belongs to.
        units: D as it must be: the size of the embeddings of the model.
        check: read all rows once, block by block, and refuse NaN and infinity.

    Returns:
        A read-only `np.memmap`, `(N, D)`, of the type in the file.

    Raises:
        ValueError: the file is no such array, is cut short, is not of `count` rows and
            `units` columns, or a row is not finite.

    Example:
    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_aploss import load_embeddings
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "photos.npy")
    >>> np.save(path, np.eye(3, 2, dtype="float32"))
    >>> load_embeddings(path, count=3, units=2, check=True)[1]
    memmap([0., 1.], dtype=float32)
    >>> load_embeddings(path, count=4)
    Traceback (most recent call last):
    ...
    ValueError: Expected 4 embeddings, one for each image. Received:
    path='...photos.npy' with 3. Extract them anew, or give the list that they were
    made from.
    """
    path = os.fspath(path)
    shape, fortran_order, dtype, start = _read_header(path)
    received = f"Received: path={path!r}"
    if len(shape) != 2 or dtype.kind != "f":
        raise ValueError(
            f"Expected a file of embeddings, (N, D) floats. {received} with shape "
            f"{shape} of {dtype}."
        )
    size, whole = os.path.getsize(path), start + dtype.itemsize * shape[0] * shape[1]
    if size != whole:
        raise ValueError(
            f"Expected a file of {whole:,} bytes, as its header says. {received} of "
            f"{size:,} bytes: it was cut short or damaged. Copy or extract it anew."
        )
    if 0 in shape:
        raise ValueError(f"Expected at least one embedding. {received}, {shape=}.")
    if count is not None and shape[0] != count:
        raise ValueError(
            f"Expected {count} embeddings, one for each image. {received} with "
            f"{shape[0]}. Extract them anew, or give the list that they were made from."
        )
    if units is not None and shape[1] != units:
        raise ValueError(
            f"Expected embeddings of {units} units. {received} with {shape[1]}: of "
            "another model, or before another whitening."
        )
    order = "F" if fortran_order else "C"
    embeddings = np.memmap(path, dtype, "r", start, shape, order)
    if check:
        for _ in finite_blocks(embeddings, path):
            pass
    return embeddings


def _read_header(path):
    """Shape, order and type of a `.npy` file, and where its numbers start."""
    if not os.path.exists(path):
        unfinished = os.path.exists(f"{path}.partial")
        advice = (
            "Its extraction is not finished: run the same command again."
            if unfinished
            else "Check its spelling."
        )
        raise ValueError(
            f"Expected a file of embeddings. Received: path={path!r}, which does not "
            f"exist. {advice}"
        )
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            header = _HEADERS[version](file)
            return *header, file.tell()
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise ValueError(
            f"Expected a `.npy` file. Received: path={path!r}, whose header cannot be "
            f"read: {' '.join(str(error).split())}."
        ) from error


def save_blocks(
    blocks: Iterable[np.ndarray],
    shape: tuple[int, int],
    out: str | os.PathLike | None = None,
    *,
    verbose: int = 0,
) -> np.ndarray:
    """Collect `(rows, D)` blocks in an array, or in a `.npy` file that is then mapped.

    The file appears when it is whole, so `out` may be the very file that the blocks
    are made from.

    Raises:
        OSError: the file cannot be written; says how much it needs.
    """
    progress = keras.utils.Progbar(shape[0], verbose=verbose)
    if out is None:
        result = np.empty(shape, np.float32)
        start = 0
        for block in blocks:
            result[start : start + len(block)] = block
            start += len(block)
            progress.update(start)
        return result
    out = os.fspath(out)
    with replaced(out, "wb") as file, full_disk_explained(out, shape):
        write_header(file, shape)
        done = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4"))
            done += len(block)
            progress.update(done)
    return load_embeddings(out)


def write_header(file, shape: tuple[int, int]) -> None:
    """Begin a `.npy` file of little-endian float32."""
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_1_0(file, header)


@contextlib.contextmanager
def full_disk_explained(path: str, shape: tuple[int, int]) -> Iterator[None]:
    """Say which file an `OSError` is about, and how much room it needs."""
    try:
        yield
    except OSError as error:
        size = 4 * shape[0] * shape[1] / 2**20
        raise OSError(
            f"Expected to write {path!r}, of {size:,.1f} MiB. Received: {error}. Make "
            "room, or choose another place."
        ) from error


def row_blocks(
    embeddings: np.ndarray, block_size: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the start and the float32 copy of each block of rows.

    Pages of a mapped file stay in the memory of the process once they are read. After
    each block they are given back: only the block is held.
    """
    block_size = block_size or rows_per_block(embeddings.shape[1])
    for start in range(0, len(embeddings), block_size):
        block = np.array(embeddings[start : start + block_size], np.float32)
        release_pages(embeddings)
        yield start, block


def rows_per_block(units: int) -> int:
    """The number of embeddings in a block of bounded memory."""
    return int(np.clip(_BLOCK_VALUES // units, 1, _MAX_ROWS))


def release_pages(embeddings: np.ndarray) -> None:
    """Take the pages of a mapped file out of the process; they can be read again."""
    # In other modes what was written into the memory only would be lost.
    if getattr(embeddings, "mode", None) not in ("r", "r+", "w+"):
        return
    owner = embeddings
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def finite_blocks(
    embeddings: np.ndarray, name: str, block_size: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """`row_blocks`, each checked to be finite."""
    for start, block in row_blocks(embeddings, block_size):
        # A float64 sum of finite float32 cannot overflow, and takes no mask.
        bad = np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float64)))
        if len(bad):
            raise ValueError(
                f"Expected finite embeddings. Received: {name!r} with NaN or infinity "
                f"in row {start + bad[0]}. Look for a diverged model or a division by "
                "a zero length, and extract them anew."
            )
        yield start, block


def unit_blocks(
    embeddings: np.ndarray, name: str, block_size: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """`row_blocks`, each checked to hold rows of unit length, or of zeros."""
    for start, block in row_blocks(embeddings, block_size):
        check_unit_length(block, name, start)
        yield start, block


def check_matrix(embeddings, name: str) -> np.ndarray:
    """The array itself, checked to be `(N, D)` floats; nothing is read."""
    if not isinstance(embeddings, np.ndarray):
        embeddings = np.asarray(embeddings)
    shape, dtype = embeddings.shape, embeddings.dtype
    if len(shape) != 2 or 0 in shape or dtype.kind != "f":
        raise ValueError(
            f"Expected `{name}` to be a non-empty (N, D) array of floats. Received: "
            f"{name}.shape={shape}, dtype={dtype}."
        )
    return embeddings
