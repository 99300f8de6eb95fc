"""Whitening, augmentation and expansion, with distractors too many for the memory.

Dimension key: Q queries, N images of the database, n distractors, D units.
"""

import contextlib
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from keras_aploss.embeddings import (
    load_embeddings,
    postprocess_embeddings,
    whiten_embeddings,
)

_BLOCK_VALUES = 2**22  # 16 MiB of embeddings at a time, when files are joined


def postprocess_benchmark(
    queries: np.ndarray,
    database: np.ndarray | None,
    folder: str | os.PathLike,
    *,
    distractors: Sequence[np.ndarray] = (),
    whitening=None,
    database_augmentation: tuple[int, float] | None = None,
    query_expansion: tuple[int, float] | None = None,
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray | None, Sequence[np.ndarray]]:
    """Whiten, augment and expand embeddings, distractors included, block by block.

    The steps and their order are those of `postprocess_embeddings`. Neighbours are
    found among the distractors as well: for that, they are joined with the database in
    one file.

    Args:
        queries: `(Q, D)`, or the test images of a `ClassBenchmark`.
        database: `(N, D)`; None for a `ClassBenchmark`, which is only whitened.
        folder: for the files that are made of distractors.
        distractors: arrays `(n, D)`, such as mapped files.
        whitening: `(mean, kernel)` or an adapted `PCAWhitening`.
        database_augmentation: `(k, alpha)` of `augment_database`.
        query_expansion: `(k, alpha)` of `expand_queries`.
        verbose: 1 shows progress bars.

    Returns:
        Queries, database and distractors, as `evaluate_benchmark` takes them.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from keras_aploss.benchmarks import postprocess_benchmark
    >>> identity = np.zeros(2), np.eye(2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     queries, database, distractors = postprocess_benchmark(
    ...         np.array([[2.0, 0.0]]), np.eye(2), folder, whitening=identity
    ...     )
    >>> queries, distractors
    (array([[1., 0.]], dtype=float32), [])
    """
    neighbours = database_augmentation is not None or query_expansion is not None
    if database is None and neighbours:
        raise ValueError(
            "Expected a benchmark with queries and a database, for query expansion and "
            "database augmentation. Received: one of classes, leave-one-out."
        )
    if database is None:
        if whitening is not None:
            queries = whiten_embeddings(queries, whitening, verbose=verbose)
        return queries, None, distractors
    folder = pathlib.Path(folder)
    out = None
    count = len(database)
    is_joined = bool(len(distractors)) and neighbours
    if is_joined:
        database = _join([database, *distractors], folder / "joined.npy", verbose)
        out = folder / "joined_postprocessed.npy"
    queries, database = postprocess_embeddings(
        queries,
        database,
        whitening=whitening,
        database_augmentation=database_augmentation,
        query_expansion=query_expansion,
        out=out,
        verbose=verbose,
    )
    if is_joined:
        if whitening is not None or database_augmentation is not None:
            # Its successor is in `out`. Where a mapped file can not go, it stays.
            with contextlib.suppress(OSError):
                os.remove(folder / "joined.npy")
        return queries, database[:count], [database[count:]]
    if whitening is not None:
        outs = [folder / f"whitened_{i}.npy" for i in range(len(distractors))]
        distractors = [
            whiten_embeddings(array, whitening, out=path, verbose=verbose)
            for array, path in zip(distractors, outs, strict=True)
        ]
    return queries, database, list(distractors)


def _join(parts: Sequence[np.ndarray], path: pathlib.Path, verbose: int) -> np.ndarray:
    """Write arrays one after the other into a `.npy` file, and map it."""
    units = parts[0].shape[1]
    shape = sum(len(part) for part in parts), units
    rows = max(1, _BLOCK_VALUES // units)
    progress = keras.utils.Progbar(shape[0], verbose=verbose)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            for start in range(0, len(part), rows):
                block = np.ascontiguousarray(part[start : start + rows], "<f4")
                file.write(block)
                progress.add(len(block))
    return load_embeddings(path)
