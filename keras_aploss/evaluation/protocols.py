"""Evaluation of embeddings: the whole ranking, exactly, in bounded memory.

The problem: a training loss ranks inside one batch; a result needs the ranking of the
whole test set, under a stated protocol. Two protocols cover the public benchmarks:
leave one out (SOP, CUB, iNaturalist) and queries against a database with junk (Oxford,
Paris, Landmarks). `metrics` defines the numbers and their rule for ties.

Queries are taken in blocks: a block of similarities, `(block_size, N)`, is the only
memory beside the embeddings. Distractors, and a database that is mapped from a file,
are read in blocks as well, once, and need not fit into memory (`distractors`).

Dimension key: Q queries, N database images, D units.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from keras_aploss.evaluation.distractors import (
    Counted,
    Rows,
    add_distractors,
    set_apart,
)
from keras_aploss.evaluation.inputs import (
    check_disjoint,
    check_embeddings,
    check_indices,
    check_labels,
    check_shape,
    check_units,
)
from keras_aploss.evaluation.metrics import (
    RetrievalResult,
    check_answerable,
    count_row,
    count_rows,
    evaluate_counts,
)
from keras_aploss.evaluation.similarity import similarity_rows


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
        embeddings: `(N, D)` floats, rows of unit length: their dot product is the
            cosine. Rows of zeros are as similar to all.
        labels: `(N,)` integers. A negative label marks a distractor: in every ranking,
            relevant to none, never a query.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`.
        block_size: queries per block. Default: as many as fit 64 MiB.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: if rows are not finite and of unit length (or zeros), labels are no
            integers, one per row, or no image has another of its label. To measure
            other similarities than the cosine, use `evaluate_similarity`.

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
    embeddings = check_embeddings(embeddings, "embeddings")
    members = relevant_by_label(labels, labels)
    if len(members) != len(embeddings):
        raise ValueError(
            "Expected one label per embedding. Received: "
            f"len(embeddings)={len(embeddings)}, len(labels)={len(members)}."
        )
    queries = np.flatnonzero([len(group) > 1 for group in members])
    similarities = similarity_rows(embeddings, embeddings, queries, block_size, verbose)
    rows = (
        (query, row, members[query][members[query] != query], query)
        for query, row in similarities
    )
    return evaluate_counts(count_rows(rows), len(embeddings), ks, interpolation)


def evaluate_query_database(
    queries,
    database,
    relevant: Sequence[Sequence[int]],
    junk: Sequence[Sequence[int]] | None = None,
    *,
    distractors: Sequence[np.ndarray] = (),
    ks: Sequence[int] = (1, 5, 10),
    interpolation: str = "step",
    block_size: int | None = None,
    verbose: int = 0,
) -> RetrievalResult:
    """Let each query rank a database.

    Args:
        queries: `(Q, D)` floats, rows of unit length, as all that follow.
        database: `(N, D)` floats. An array that is mapped from a file
            (`numpy.load(path, mmap_mode="r")`) is not copied into memory: rows that no
            query lists are counted in one pass over the file.
        relevant: per query, the indices of its positives in the database; see
            `relevant_by_label`. Queries without any are left out of the means.
        junk: per query, the indices taken out of its ranking.
        distractors: arrays `(n, D)` of more database images, relevant to no query.
            Those that are mapped from files are read block by block. The result is
            that of the whole ranking.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`. Published numbers on
            Oxford and Paris are `"trapezoid"`.
        block_size: queries per block. Default: as many as fit 64 MiB.
        verbose: 1 shows progress bars.

    Raises:
        ValueError: if rows are not finite and of unit length (or zeros), indices do not
            fit the database, or no query has a positive. To measure other similarities
            than the cosine, use `evaluate_similarity`.

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
    results = evaluate_protocols(
        queries,
        database,
        {"": (relevant, junk)},
        distractors=distractors,
        ks=ks,
        interpolation=interpolation,
        block_size=block_size,
        verbose=verbose,
    )
    return results[""]


def evaluate_protocols(
    queries,
    database,
    protocols: Mapping[str, tuple],
    *,
    distractors: Sequence[np.ndarray] = (),
    ks: Sequence[int] = (1, 5, 10),
    interpolation: str = "step",
    block_size: int | None = None,
    verbose: int = 0,
) -> dict[str, RetrievalResult]:
    """Judge one ranking of a database by several ground truths, in one pass over it.

    Revisited Oxford and Paris have three: easy, medium and hard.

    Args:
        queries: `(Q, D)` floats, rows of unit length, as all that follow.
        database: `(N, D)` floats, in memory or mapped from a file.
        protocols: by name, a pair `(relevant, junk)`; None for no junk. These and the
            other arguments are those of `evaluate_query_database`.
        distractors: arrays `(n, D)` of more images, relevant to no query.
        ks: the cut-offs k.
        interpolation: form of the AP, `"step"` or `"trapezoid"`.
        block_size: queries per block.
        verbose: 1 shows progress bars.

    Returns:
        A `RetrievalResult` per name.

    Example:
    Image 1 is easy to find and image 2 hard. In the hard protocol the easy image is
    junk, and the distractor comes first.

    >>> from keras_aploss.evaluation import evaluate_protocols
    >>> protocols = {"easy": ([[1]], [[2]]), "hard": ([[2]], [[1]])}
    >>> database = [[0.0, 1.0], [0.8, 0.6], [0.6, -0.8]]
    >>> results = evaluate_protocols(
    ...     [[1.0, 0.0]], database, protocols, distractors=[[[0.75, 0.66]]]
    ... )
    >>> {name: result.metrics["map"] for name, result in results.items()}
    {'easy': 1.0, 'hard': 0.5}
    """
    queries = check_embeddings(queries, "queries")
    database, is_mapped = _as_array(database, "database")
    check_units("database", queries, database)
    parts = _check_distractors(queries, distractors)
    truths = {
        name: _check_protocol(name, protocol, len(queries), len(database))
        for name, protocol in protocols.items()
    }
    groups = [group for pair in truths.values() for part in pair for group in part]
    apart = is_mapped and set_apart(database, _union(groups))
    if apart:
        database, numbers, rest = apart
        parts = rest + parts
        truths = {
            name: [[numbers[group] for group in part] for part in pair]
            for name, pair in truths.items()
        }
    database = check_embeddings(database, "database")
    counted = _count(queries, database, truths, block_size, verbose)
    if len(truths) > 1 or parts:
        counted = list(counted)
    if parts:
        items = [item for _, item in counted]
        for name in truths:
            answerable = sum(protocol == name for protocol, _ in counted)
            check_answerable(answerable, len(queries))
        add_distractors(items, queries, database, parts, verbose=verbose)

    def counts(protocol):
        return (
            (item.query, item.thresholds, item.above)
            for name, item in counted
            if name == protocol
        )

    return {
        name: evaluate_counts(counts(name), len(queries), ks, interpolation)
        for name in truths
    }


def _as_array(embeddings, name: str) -> tuple[np.ndarray, bool]:
    """The array, still mapped if it is, and whether it is; its values are not read."""
    is_mapped = isinstance(embeddings, np.memmap)
    embeddings = embeddings if is_mapped else np.asarray(embeddings)
    check_shape(embeddings, name)
    return embeddings, is_mapped


def _check_distractors(queries: np.ndarray, distractors) -> list[Rows]:
    parts = []
    for number, array in enumerate(distractors):
        name = f"distractors[{number}]"
        array, _ = _as_array(array, name)
        check_units(name, queries, array)
        parts.append(Rows(name, array, np.empty(0, np.int64)))
    return parts


def _check_protocol(name: str, protocol: tuple, num_queries: int, size: int) -> tuple:
    """The checked pair of relevant and junk indices."""
    relevant, junk = protocol
    junk = [()] * num_queries if junk is None else junk
    names = ("relevant", "junk")
    if name:
        names = (f"protocols[{name!r}][0]", f"protocols[{name!r}][1]")
    relevant = check_indices(relevant, num_queries, size, names[0])
    junk = check_indices(junk, num_queries, size, names[1])
    check_disjoint(relevant, junk)
    return relevant, junk


def _union(groups: Sequence[np.ndarray]) -> np.ndarray:
    """The distinct indices of all groups; groups may be one and the same array."""
    distinct = {id(group): group for group in groups}.values()
    return np.unique(np.concatenate(list(distinct))).astype(np.int64)


def _count(
    queries: np.ndarray,
    database: np.ndarray,
    truths: Mapping[str, tuple],
    block_size: int | None,
    verbose: int,
) -> Iterator[tuple[str, Counted]]:
    """Yield the protocol and the counts of each query that has positives in it."""
    answerable = [
        query
        for query in range(len(queries))
        if any(len(relevant[query]) for relevant, _ in truths.values())
    ]
    answerable = np.array(answerable, np.int64)
    for query, row in similarity_rows(
        queries, database, answerable, block_size, verbose
    ):
        for name, (relevant, junk) in truths.items():
            positives = relevant[query]
            if len(positives):
                similarity = row[positives]
                counts = count_row(row, positives, junk[query])
                yield name, Counted(query, positives, similarity, *counts)


def relevant_by_label(query_labels, database_labels) -> list[np.ndarray]:
    """For each query, the ascending indices of the database images with its label.

    A negative label marks a distractor: nothing is relevant to it, nor it to anything.
    Queries of one label share one array, so the list takes O(Q + N) memory.

    Example:
    >>> from keras_aploss.evaluation import relevant_by_label
    >>> relevant_by_label([7, -1], [7, -1, 3, 7])
    [array([0, 3]), array([], dtype=int64)]
    """
    query_labels = check_labels(query_labels, "query_labels")
    database_labels = check_labels(database_labels, "database_labels")
    order = np.argsort(database_labels, kind="stable")
    values, starts = np.unique(database_labels[order], return_index=True)
    groups = np.split(order, starts[1:])
    labelled = zip(values.tolist(), groups, strict=False)
    members = {label: group for label, group in labelled if label >= 0}
    nothing = np.empty(0, np.int64)
    return [members.get(label, nothing) for label in query_labels.tolist()]
