"""Checks of the arguments of evaluations, before any long work.

Dimension key: Q queries, N database images, D units.
"""

import numpy as np


def check_finite(embeddings: np.ndarray, name: str, first_row: int = 0) -> None:
    """Raise a ValueError that counts the rows with NaN or infinity.

    `first_row` is the number of the first row in a larger array.
    """
    # A float64 sum of finite float32 cannot overflow, and takes no (N, D) mask.
    bad = np.flatnonzero(~np.isfinite(embeddings.sum(axis=1, dtype=np.float64)))
    if len(bad):
        raise ValueError(
            f"Expected finite embeddings. Received: `{name}` with {len(bad)} of "
            f"{len(embeddings)} rows holding NaN or infinity, the first at index "
            f"{first_row + bad[0]}. Look for a diverged model or a division by a zero "
            "length."
        )


def check_shape(embeddings: np.ndarray, name: str) -> None:
    """Check what needs no reading of the values."""
    if (
        embeddings.ndim != 2
        or 0 in embeddings.shape
        or embeddings.dtype.kind not in "iuf"
    ):
        raise ValueError(
            f"Expected `{name}` to be a non-empty (rows, units) array of real numbers. "
            f"Received: {name}.shape={embeddings.shape}, dtype={embeddings.dtype}."
        )


def check_units(name: str, queries: np.ndarray, others: np.ndarray) -> None:
    """Check that both have D units."""
    if queries.shape[1] != others.shape[1]:
        raise ValueError(
            "Expected embeddings of one size. Received: "
            f"queries.shape={queries.shape}, {name}.shape={others.shape}."
        )


def check_embeddings(embeddings, name: str, first_row: int = 0) -> np.ndarray:
    """Finite float32 rows: the array itself where it already is such.

    `first_row` is the number of the first row in a larger array, for the message.
    """
    embeddings = np.asarray(embeddings)
    check_shape(embeddings, name)
    with np.errstate(over="ignore"):  # reported as infinite, below
        embeddings = np.ascontiguousarray(embeddings, np.float32)
    # The fast check first: it also takes large finite numbers for infinite.
    if not np.isfinite(_squared_lengths(embeddings)).all():
        check_finite(embeddings, name, first_row)
    return embeddings


def check_products(queries: np.ndarray, database: np.ndarray) -> None:
    """Check that no dot product of finite rows overflows float32."""
    largest = _length(queries) * _length(database)
    if largest > float(np.finfo(np.float32).max):
        raise ValueError(
            "Expected embeddings whose products fit float32. Received: products up to "
            f"{largest:.0e}. Normalise the embeddings to unit length."
        )


def _length(embeddings: np.ndarray) -> float:
    """The largest length of a row, or more where its square overflows float32."""
    squares = _squared_lengths(embeddings).max()
    if np.isfinite(squares):
        return float(np.sqrt(squares))
    largest = max(float(embeddings.max()), -float(embeddings.min()))
    return largest * embeddings.shape[1] ** 0.5


def _squared_lengths(embeddings: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum("nd,nd->n", embeddings, embeddings)


def check_labels(labels, name: str) -> np.ndarray:
    """The labels as `(rows,)` int64."""
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


def check_indices(groups, num_queries: int, size: int, name: str) -> list[np.ndarray]:
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


def check_disjoint(relevant, junk) -> None:
    """Check that no query has an index in both."""
    for query, (positives, left_out) in enumerate(zip(relevant, junk, strict=True)):
        if len(left_out) and np.isin(left_out, positives).any():
            raise ValueError(
                "Expected `relevant` and `junk` to be disjoint. Received: an index in "
                f"both for query={query}. Keep it in one of them."
            )


def check_matrix(similarity, relevance, junk) -> tuple[np.ndarray, ...]:
    """The three `(Q, N)` arrays of similarities, of positives and of junk."""
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or similarity.dtype.kind not in "iuf":
        raise ValueError(
            "Expected `similarity` to be a (Q, N) array of real numbers. Received: "
            f"similarity.shape={similarity.shape}, dtype={similarity.dtype}."
        )
    if not np.isfinite(similarity).all():
        raise ValueError(
            "Expected finite similarities. Received: "
            f"{np.count_nonzero(~np.isfinite(similarity))} NaN or infinite values in "
            "`similarity`. Mark images to leave out as `junk` instead."
        )
    relevance = _check_mask(relevance, similarity.shape, "relevance")
    if junk is None:
        junk = np.zeros_like(relevance)
    junk = _check_mask(junk, similarity.shape, "junk")
    if (relevance & junk).any():
        raise ValueError(
            "Expected `relevance` and `junk` to be disjoint. Received: "
            f"{np.count_nonzero(relevance & junk)} entries true in both."
        )
    return similarity, relevance, junk


def _check_mask(mask, shape: tuple[int, ...], name: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != shape:
        raise ValueError(
            f"Expected `{name}` to be booleans of the shape of the similarities, "
            f"{shape}. Received: {name}.shape={mask.shape}, dtype={mask.dtype}."
        )
    return mask
