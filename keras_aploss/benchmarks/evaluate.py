"""The published metrics of a benchmark, from embeddings.

Dimension key: Q queries, N images of the database or test set, n distractors, D units.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_aploss.benchmarks.benchmark import ClassBenchmark, QueryBenchmark
from keras_aploss.evaluation import (
    RetrievalResult,
    evaluate_leave_one_out,
    evaluate_protocols,
)


def evaluate_benchmark(
    benchmark: QueryBenchmark | ClassBenchmark,
    queries,
    database=None,
    *,
    distractors: Sequence[np.ndarray] = (),
    verbose: int = 0,
) -> Mapping[str, RetrievalResult]:
    """Measure embeddings by the protocols of a benchmark.

    Args:
        benchmark: what `read_benchmark` returns.
        queries: `(Q, D)` in the order of `query_paths`; for a `ClassBenchmark` `(N, D)`
            in the order of its test images.
        database: `(N, D)` in the order of `database_paths`; None for a
            `ClassBenchmark`.
        distractors: arrays `(n, D)` of images that are relevant to no query.
        verbose: 1 shows progress bars.

    Returns:
        A `RetrievalResult` per protocol: "easy", "medium" and "hard" (revisited),
        "classic", "public" and "private" (Google Landmarks), or "test" (classes). The
        published metrics are those that `benchmark.reported` names.

    Raises:
        ValueError: if the embeddings are not as many as the images.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import evaluate_benchmark
    >>> from keras_aploss.benchmarks import QueryBenchmark
    >>> truth = [np.array([1])], [np.array([], int)]
    >>> benchmark = QueryBenchmark(
    ...     "mine", ["q.jpg"], [None], ["a.jpg", "b.jpg"], {"classic": truth}
    ... )
    >>> embeddings = np.array([[0.6, 0.8], [0.8, 0.6]])
    >>> results = evaluate_benchmark(benchmark, [[1.0, 0.0]], embeddings)
    >>> results["classic"].metrics["map"]
    1.0
    """
    if isinstance(benchmark, ClassBenchmark):
        if database is not None or len(distractors):
            raise ValueError(
                "Expected the embeddings of the test images alone: each of "
                f"{benchmark.name} queries the others. Received also a database or "
                "distractors."
            )
        _check_count(benchmark, "queries", queries, len(benchmark.test.labels))
        result = evaluate_leave_one_out(
            queries, benchmark.test.labels, ks=benchmark.ks, verbose=verbose
        )
        return {"test": result}
    if database is None:
        raise ValueError(f"Expected the database of {benchmark.name}. Received: none.")
    _check_count(benchmark, "queries", queries, len(benchmark.query_paths))
    _check_count(benchmark, "database", database, len(benchmark.database_paths))
    return evaluate_protocols(
        queries,
        database,
        benchmark.protocols,
        distractors=distractors,
        ks=benchmark.ks,
        interpolation=benchmark.interpolation,
        verbose=verbose,
    )


def _check_count(benchmark, name, embeddings, count):
    if len(embeddings) != count:
        raise ValueError(
            f"Expected one embedding for each of the {count} images of "
            f"{benchmark.name}. Received: len({name})={len(embeddings)}. Extract them "
            "from the paths of the benchmark, in their order."
        )
