"""Checks of the arguments of evaluations, before any long work.

Dimension key: Q queries, N database images, D units.
"""

import numpy as np

# How far from 1 the length of an embedding may be: in bfloat16 it is off by 0.006.
LENGTH_TOLERANCE = 0.01


def check_finite(
    embeddings: np.ndarray,
    name: str,
    first_row: int = 0,
    *,
    numbers: np.ndarray | None = None,
    count: int | None = None,
) -> None:
    """Raise a ValueError that counts the rows with NaN or infinity.

    Args:
        embeddings: `(n, D)` floats.
        name: what the message calls them.
        first_row: the number of the first row in a larger array.
        numbers: the numbers of the rows, if they are some of `count` rows.
        count: the number of all rows.
    """
    # A float64 sum of finite float32 cannot overflow, and takes no (N, D) mask.
    bad = np.flatnonzero(~np.isfinite(embeddings.sum(axis=1, dtype=np.float64)))
    if len(bad):
        first = bad[0] if numbers is None else numbers[bad[0]]
        raise ValueError(
            f"Expected finite embeddings. Received: `{name}` with {len(bad)} of "
            f"{count or len(embeddings)} rows holding NaN or infinity, the first at "
            f"index {first_row + first}. Look for a diverged model or a division by a "
            "zero length."
        )


def check_unit_length(
    embeddings: np.ndarray, name: str, first_row: int = 0, *, allow_zeros: bool = True
) -> None:
    """Raise a ValueError that counts the rows that are not of unit length.

    The dot product of other rows is no cosine: it ranks long rows first, and the figure
    that comes out is of the lengths, too.

    Args:
        embeddings: `(N, D)` floats.
        name: what the message calls them.
        first_row: the number of the first row in a larger array.
        allow_zeros: let rows of zeros pass, which are as similar to all others.

    >>> check_unit_length(np.array([[0.6, 0.8], [0.0, 0.0]]), "embeddings")
    >>> check_unit_length(np.array([[0.6, 0.8], [3.0, 4.0]]), "embeddings")
    Traceback (most recent call last):
    ...
    ValueError: Expected embeddings of unit length. Received: `embeddings` with 1 of
    2 rows of other lengths, the first at index 1 of length 5. End the model with...
    """
    # Fast, in float32; what it doubts is looked at again.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
    doubtful = np.flatnonzero(~(np.abs(squares - 1) <= LENGTH_TOLERANCE))
    if not len(doubtful):
        return
    rows = embeddings[doubtful]
    check_finite(rows, name, first_row, numbers=doubtful, count=len(embeddings))
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    is_bad = np.abs(lengths - 1) > LENGTH_TOLERANCE
    if allow_zeros:
        is_bad &= lengths > 0
    if is_bad.any():
        first = np.argmax(is_bad)
        raise ValueError(
            f"Expected embeddings of unit length. Received: `{name}` with "
            f"{np.count_nonzero(is_bad)} of {len(embeddings)} rows of other lengths, "
            f"the first at index {first_row + doubtful[first]} of length "
            f"{lengths[first]:.4g}. End the model with "
            "`keras.layers.UnitNormalization()`, or divide the rows by their lengths "
            "(`keras_aploss.embeddings.unit_length`)."
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
    """Float32 rows of unit length or zeros: the array itself where it already is such.

    `first_row` is the number of the first row in a larger array, for the message.
    """
    embeddings = np.asarray(embeddings)
    check_shape(embeddings, name)
    with np.errstate(over="ignore"):  # reported as infinite, below
        embeddings = np.ascontiguousarray(embeddings, np.float32)
    check_unit_length(embeddings, name, first_row)
    return embeddings


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
