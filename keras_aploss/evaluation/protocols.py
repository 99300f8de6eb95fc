"""Evaluation of embeddings: the whole ranking, exactly, in bounded memory.

The problem: a training loss ranks inside one batch; a result needs the ranking of the
whole test set, under a stated protocol. Two protocols cover the public benchmarks:
leave one out (SOP, CUB, iNaturalist) and queries against a database with junk (Oxford,
Paris, Landmarks). `metrics` defines the numbers and their rule for ties.

Queries are taken in blocks: a block of similarities, `(block_size, N)`, is the only
memory beside the embeddings.

Similarity is the float32 dot product. Embeddings need not have unit length, but only
then is it the cosine. Embeddings of the database that are identical, bit for bit, are
tied on every machine. Other similarities that differ by no more than float32 rounding
may change places with the block size or the machine.

Dimension key: Q queries, N database images, D units, C copies among the N.
"""

import hashlib
import operator
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_aploss.evaluation.embedding import check_finite
from keras_aploss.evaluation.metrics import (
    RetrievalResult,
    evaluate_rows,
    top_of_row,
)

# 64 MiB of similarities: enough rows for a fast matrix product.
_BLOCK_VALUES = 2**24


def evaluate_leave_one_out(
    embeddings,
    labels,
    *,
    ks: Sequence[int] = (1, 5, 10),
    interpolation: str = "step",
    block_size: int | None = None,
    verbose: int = 0,
) -> RetrievalResult:
    """Let each image query all the others; those with its label are relevant.

    Args:
        embeddings: `(N, D)` finite floats.
        labels: `(N,)` integers. A negative label marks a distractor: in every ranking,
            relevant to none, never a query.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`.
        block_size: queries per block. Default: as many as fit 64 MiB.
        verbose: 1 shows a progress bar.

    Example:
    Image 0 finds its partner (2) behind image 1; image 2 finds it first. Image 1 is
    alone with its label: it has no AP and is left out of the means.

    >>> from keras_aploss import evaluate_leave_one_out
    >>> embeddings = [[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]]
    >>> result = evaluate_leave_one_out(embeddings, [0, 1, 0], ks=(1,))
    >>> result.average_precision
    array([0.5, nan, 1. ])
    >>> result.metrics["map"], result.metrics["recall_at_1"], result.num_queries
    (0.75, 0.5, 2)
    """
    embeddings = _check_embeddings(embeddings, "embeddings")
    members = relevant_by_label(labels, labels)
    if len(members) != len(embeddings):
        raise ValueError(
            "Expected one label per embedding. Received: "
            f"len(embeddings)={len(embeddings)}, len(labels)={len(members)}."
        )
    queries = np.flatnonzero([len(group) > 1 for group in members])
    similarities = _similarity_rows(
        embeddings, embeddings, queries, block_size, verbose
    )
    rows = (
        (query, row, members[query][members[query] != query], query)
        for query, row in similarities
    )
    return evaluate_rows(rows, len(embeddings), ks, interpolation)


def evaluate_query_database(
    queries,
    database,
    relevant: Sequence[Sequence[int]],
    junk: Sequence[Sequence[int]] | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    interpolation: str = "step",
    block_size: int | None = None,
    verbose: int = 0,
) -> RetrievalResult:
    """Let each query rank a database.

    Args:
        queries: `(Q, D)` finite floats.
        database: `(N, D)` finite floats.
        relevant: per query, the indices of its positives in the database; see
            `relevant_by_label`. Queries without any are left out of the means.
        junk: per query, the indices taken out of its ranking.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`. Published numbers on
            Oxford and Paris are `"trapezoid"`.
        block_size: queries per block. Default: as many as fit 64 MiB.
        verbose: 1 shows a progress bar.

    Example:
    The nearest image, 0, is junk; the relevant image 2 follows image 1.

    >>> from keras_aploss import evaluate_query_database
    >>> database = [[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]]
    >>> arguments = [[1.0, 0.0]], database, [[2]], [[0]]
    >>> evaluate_query_database(*arguments).metrics["map"]
    0.5
    >>> evaluate_query_database(*arguments, interpolation="trapezoid").metrics["map"]
    0.25
    """
    queries = _check_embeddings(queries, "queries")
    database = _check_embeddings(database, "database")
    relevant = _check_indices(relevant, len(queries), len(database), "relevant")
    junk = [()] * len(queries) if junk is None else junk
    junk = _check_indices(junk, len(queries), len(database), "junk")
    for query, (positives, left_out) in enumerate(zip(relevant, junk, strict=True)):
        if len(left_out) and np.isin(left_out, positives).any():
            raise ValueError(
                "Expected `relevant` and `junk` to be disjoint. Received: an index in "
                f"both for query={query}. Keep it in one of them."
            )
    answerable = np.flatnonzero([len(positives) for positives in relevant])
    similarities = _similarity_rows(queries, database, answerable, block_size, verbose)
    rows = ((query, row, relevant[query], junk[query]) for query, row in similarities)
    return evaluate_rows(rows, len(queries), ks, interpolation)


def relevant_by_label(query_labels, database_labels) -> list[np.ndarray]:
    """For each query, the ascending indices of the database images with its label.

    A negative label marks a distractor: nothing is relevant to it, nor it to anything.
    Queries of one label share one array, so the list takes O(Q + N) memory.

    Example:
    >>> from keras_aploss import relevant_by_label
    >>> relevant_by_label([7, -1], [7, -1, 3, 7])
    [array([0, 3]), array([], dtype=int64)]
    """
    query_labels = _check_labels(query_labels, "query_labels")
    database_labels = _check_labels(database_labels, "database_labels")
    order = np.argsort(database_labels, kind="stable")
    values, starts = np.unique(database_labels[order], return_index=True)
    groups = np.split(order, starts[1:])
    labelled = zip(values.tolist(), groups, strict=False)
    members = {label: group for label, group in labelled if label >= 0}
    nothing = np.empty(0, np.int64)
    return [members.get(label, nothing) for label in query_labels.tolist()]


def top_k(
    queries,
    database,
    k: int,
    *,
    exclude_self: bool = False,
    block_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar database images of each query, most similar first.

    Args:
        queries: `(Q, D)` finite floats.
        database: `(N, D)` finite floats.
        k: how many, at most N.
        exclude_self: the queries are the database, and query i leaves image i out.
        block_size: queries per block. Default: as many as fit 64 MiB.

    Returns:
        Indices `(Q, k)` int64 and similarities `(Q, k)` float32. Of equal
        similarities the lower index comes first.

    Example:
    >>> from keras_aploss import top_k
    >>> indices, similarities = top_k([[1.0, 0.0]], [[0.5, 0.0], [2.0, 0.0]], k=2)
    >>> indices, similarities
    (array([[1, 0]]), array([[2. , 0.5]], dtype=float32))
    """
    queries = _check_embeddings(queries, "queries")
    database = _check_embeddings(database, "database")
    if exclude_self and len(queries) != len(database):
        raise ValueError(
            "Expected the queries to be the database with `exclude_self=True`. "
            f"Received: len(queries)={len(queries)}, len(database)={len(database)}."
        )
    k = operator.index(k)
    most = len(database) - bool(exclude_self)
    if not 1 <= k <= most:
        raise ValueError(
            f"Expected `k` from 1 to the {most} images to rank. Received: k={k}."
        )
    indices = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    every = np.arange(len(queries))
    for query, row in _similarity_rows(queries, database, every, block_size, 0):
        if exclude_self:
            row[query] = -np.inf
        indices[query] = top_of_row(row, k)
        similarities[query] = row[indices[query]]
    return indices, similarities


def _similarity_rows(
    queries: np.ndarray,
    database: np.ndarray,
    chosen: np.ndarray,
    block_size: int | None,
    verbose: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each chosen query with its `(N,)` similarities, free to overwrite."""
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            "Expected embeddings of one size. Received: "
            f"queries.shape={queries.shape}, database.shape={database.shape}."
        )
    if block_size is None:
        block_size = max(1, _BLOCK_VALUES // len(database))
    if block_size < 1:
        raise ValueError(f"Expected `block_size` >= 1. Received: {block_size=}.")
    largest = _largest(queries) * _largest(database) * queries.shape[1]
    if largest > float(np.finfo(np.float32).max):
        raise ValueError(
            "Expected embeddings whose products fit float32. Received: products up to "
            f"{largest:.0e}. Normalise the embeddings to unit length."
        )
    copies, originals = _identical_rows(database)
    buffer = np.empty((min(block_size, len(chosen)), len(database)), np.float32)
    progress = keras.utils.Progbar(-(-len(chosen) // block_size), verbose=verbose)
    for block, start in enumerate(range(0, len(chosen), block_size)):
        block_queries = chosen[start : start + block_size]
        rows = buffer[: len(block_queries)]  # (block_size, N)
        np.matmul(queries[block_queries], database.T, out=rows)
        if len(copies):
            # A matrix product rounds by the place of a column in its tiles and threads.
            rows[:, copies] = rows[:, originals]
        yield from zip(block_queries.tolist(), rows, strict=True)
        progress.update(block + 1)


def _identical_rows(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows identical to an earlier one, `(C,)`, and the first such row of each."""
    # Sums of integers, unlike those of floats, do not depend on their order: identical
    # rows have equal sums. Few others do, and only these rows are looked at one by one.
    sums = embeddings.view(np.uint32).sum(axis=1, dtype=np.uint32)
    _, inverse, counts = np.unique(sums, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(embeddings[row]).digest() for row in suspects)
    originals = [
        first.setdefault(digest, row)
        for row, digest in zip(suspects.tolist(), digests, strict=True)
    ]
    originals = np.array(originals, np.int64)
    is_copy = originals != suspects
    return suspects[is_copy], originals[is_copy]


def _largest(embeddings: np.ndarray) -> float:
    return max(float(embeddings.max()), -float(embeddings.min()))


def _check_embeddings(embeddings, name: str) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if (
        embeddings.ndim != 2
        or 0 in embeddings.shape
        or embeddings.dtype.kind not in "iuf"
    ):
        raise ValueError(
            f"Expected `{name}` to be a non-empty (rows, units) array of real numbers. "
            f"Received: {name}.shape={embeddings.shape}, dtype={embeddings.dtype}."
        )
    with np.errstate(over="ignore"):  # reported as infinite, below
        embeddings = np.ascontiguousarray(embeddings, np.float32)
    check_finite(embeddings, name)
    return embeddings


def _check_labels(labels, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected `{name}` to be a (rows,) array of integers. Received: "
            f"{name}.shape={labels.shape}, dtype={labels.dtype}. Number the classes."
        )
    if len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"Expected `{name}` to fit int64. Received: max({name})={labels.max()}."
        )
    return labels.astype(np.int64)


def _check_indices(groups, num_queries: int, size: int, name: str) -> list[np.ndarray]:
    """The per-query index arrays, checked to be distinct indices below `size`."""
    if len(groups) != num_queries:
        raise ValueError(
            f"Expected one array of `{name}` per query, {num_queries} in all. "
            f"Received: len({name})={len(groups)}."
        )
    checked = []
    for query, group in enumerate(groups):
        indices = np.asarray(group)
        if indices.size == 0:
            indices = np.empty(0, np.int64)
        problem = None
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            problem = f"shape={indices.shape}, dtype={indices.dtype}"
        elif len(indices):
            ordered = np.sort(indices)
            if ordered[0] < 0 or ordered[-1] >= size:
                problem = f"indices from {ordered[0]} to {ordered[-1]}"
            elif (ordered[1:] == ordered[:-1]).any():
                problem = "an index more than once"
        if problem:
            raise ValueError(
                f"Expected `{name}[{query}]` to be distinct integer indices below "
                f"{size}. Received: {problem}."
            )
        checked.append(indices)
    return checked
