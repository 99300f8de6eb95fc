"""Embeddings of a benchmark, stored in a folder, and their published metrics.

Dimension key: Q queries, N images of the database or test set, n distractors, D units.
"""

import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_aploss.benchmarks.benchmark import ClassBenchmark, QueryBenchmark
from keras_aploss.embeddings import extract_embeddings
from keras_aploss.evaluation import (
    RetrievalResult,
    evaluate_leave_one_out,
    evaluate_protocols,
)
from keras_aploss.images import OriginalImages


def benchmark_embeddings(
    model: keras.Model,
    benchmark: QueryBenchmark | ClassBenchmark,
    folder: str | os.PathLike,
    *,
    scales: Sequence[float] = (1.0,),
    max_size: int | None = None,
    batch_size: int = 16,
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed the images of a benchmark, as its protocol shows them.

    Queries and database of a `QueryBenchmark` keep their own size; queries are cropped
    to their boxes. Of the test images of a `ClassBenchmark` the central square crops
    are embedded, of the `image_size` with which it was read.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        benchmark: what `read_benchmark` returns.
        folder: of the `.npy` files. What is already there is not computed again, and a
            call that was interrupted resumes; see `extract_embeddings`.
        scales: factors of the sides of each image, to be combined.
        max_size: longer sides are shrunk to this; only for a `QueryBenchmark`.
        batch_size: images to read at once.
        verbose: 1 shows progress bars.

    Returns:
        Queries `(Q, D)` and database `(N, D)`, mapped read-only; for a `ClassBenchmark`
        the test images and None.

    Raises:
        ValueError: if the folder holds embeddings of another model or other images, or
            an image cannot be read.
        OSError: if the disk is full. What was done is kept.

    Example:
    >>> import os, tempfile
    >>> import numpy as np, PIL.Image
    >>> from keras_aploss import evaluate_benchmark, retrieval_model
    >>> from keras_aploss.benchmarks import QueryBenchmark, benchmark_embeddings
    >>> folder = tempfile.TemporaryDirectory()
    >>> paths = [os.path.join(folder.name, f"{name}.png") for name in "abc"]
    >>> for path, colour in zip(paths, ("red", "green", "blue")):
    ...     PIL.Image.new("RGB", (60, 40), colour).save(path)
    >>> truth = [np.array([1])], [np.array([], int)]
    >>> benchmark = QueryBenchmark(
    ...     "mine", paths[1:2], [(5, 5, 35, 35)], paths, {"classic": truth}
    ... )
    >>> model = retrieval_model("small_resnet", units=8)
    >>> queries, database = benchmark_embeddings(model, benchmark, folder.name)
    >>> queries.shape, database.shape
    ((1, 8), (3, 8))
    >>> list(evaluate_benchmark(benchmark, queries, database))
    ['classic']
    """
    options = {"scales": scales, "batch_size": batch_size, "verbose": verbose}
    if isinstance(benchmark, ClassBenchmark):
        if max_size is not None:
            raise ValueError(
                f"Expected no `max_size` for {benchmark.name}, whose images are square "
                f"crops. Received: {max_size=}. Choose their `image_size` instead."
            )
        images = benchmark.test.images
        return _extract(model, images, folder, "test", images.image_size, options), None
    queries = OriginalImages(
        benchmark.query_paths, boxes=benchmark.query_boxes, max_size=max_size
    )
    database = OriginalImages(benchmark.database_paths, max_size=max_size)
    return (
        _extract(model, queries, folder, "queries", max_size, options),
        _extract(model, database, folder, "database", max_size, options),
    )


def distractor_embeddings(
    model: keras.Model,
    paths: Sequence[str],
    folder: str | os.PathLike,
    *,
    scales: Sequence[float] = (1.0,),
    max_size: int | None = None,
    batch_size: int = 16,
    verbose: int = 0,
) -> np.ndarray:
    """Embed distractors, as `benchmark_embeddings` embeds a database.

    A million images take days on a CPU. A call that was interrupted resumes.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        paths: the images, such as those of `read_distractor_paths`.
        folder: of the `.npy` file.
        scales: factors of the sides of each image, to be combined.
        max_size: longer sides are shrunk to this.
        batch_size: images to read at once.
        verbose: 1 shows a progress bar.

    Returns:
        `(n, D)`, mapped read-only.

    Example:
    >>> import os, tempfile, PIL.Image
    >>> from keras_aploss import retrieval_model
    >>> from keras_aploss.benchmarks import distractor_embeddings
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "a.png")
    >>> PIL.Image.new("RGB", (60, 40)).save(path)
    >>> model = retrieval_model("small_resnet", units=8)
    >>> distractor_embeddings(model, [path], folder.name).shape
    (1, 8)
    """
    options = {"scales": scales, "batch_size": batch_size, "verbose": verbose}
    images = OriginalImages(paths, max_size=max_size)
    return _extract(model, images, folder, "distractors", max_size, options)


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


def _extract(model, images, folder, part, size, options):
    """Extract into a file named after part, size and scales.

    Embeddings of several settings then lie side by side.
    """
    factors = "_".join(f"{scale:g}" for scale in options["scales"])
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{part}_{size or 'original'}_x{factors}.npy")
    return extract_embeddings(model, images, path, **options)


def _check_count(benchmark, name, embeddings, count):
    if len(embeddings) != count:
        raise ValueError(
            f"Expected one embedding for each of the {count} images of "
            f"{benchmark.name}. Received: len({name})={len(embeddings)}. Extract them "
            "from the paths of the benchmark, in their order."
        )
