"""Benchmarks as values: images, ground truth and the metrics that are published.

Dimension key: Q queries, N images of the database.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_aploss.datasets import ImageSet


class QueryBenchmark(NamedTuple):
    """Queries that rank a database.

    Attributes:
        name: as in `read_benchmark`.
        query_paths: Q image files.
        query_boxes: Q boxes (left, top, right, bottom) in pixels, the part of the image
            that is the query; None for a whole image.
        database_paths: N image files.
        protocols: by name, a pair of lists with an array of database indices per
            query: the relevant images, and the junk, which is taken out of the ranking.
        ks: cut-offs of the metrics.
        interpolation: form of the AP.
        reported: the metrics that are published, as named in `RetrievalResult.metrics`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss.benchmarks import QueryBenchmark
    >>> from keras_aploss.evaluation import evaluate_protocols
    >>> found, none = [np.array([1])], [np.array([], int)]
    >>> benchmark = QueryBenchmark(
    ...     "mine", ["q.jpg"], [(0, 0, 9, 9)], ["a.jpg", "b.jpg"],
    ...     {"easy": (found, none)}, ks=(1,),
    ... )
    >>> results = evaluate_protocols(
    ...     [[1.0, 0.0]], [[0.6, 0.8], [0.8, 0.6]], benchmark.protocols,
    ...     interpolation=benchmark.interpolation,
    ... )
    >>> results["easy"].metrics["map"]
    1.0
    """

    name: str
    query_paths: Sequence[str]
    query_boxes: Sequence[tuple[float, float, float, float] | None]
    database_paths: Sequence[str]
    protocols: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]
    ks: Sequence[int] = (1, 5, 10)
    interpolation: str = "trapezoid"
    reported: Sequence[str] = ("map", "mp_at_1", "mp_at_5", "mp_at_10")


class ClassBenchmark(NamedTuple):
    """Classes of images: some to train on, the others to evaluate leave-one-out.

    Attributes:
        name: as in `read_benchmark`.
        train: the training images.
        test: the images of the other classes, each of which queries all the others.
        ks: cut-offs of the metrics.
        reported: the metrics that are published, as named in `RetrievalResult.metrics`.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import ImageFiles, ImageSet
    >>> from keras_aploss.benchmarks import ClassBenchmark
    >>> files, names = ImageFiles(["a.jpg", "b.jpg"], 64), ["cup", "jug"]
    >>> train = ImageSet(files, np.array([0, 0]), names)
    >>> benchmark = ClassBenchmark("mine", train, train._replace(labels=[1, 1]), (1,))
    >>> benchmark.test.class_names[benchmark.test.labels[0]]
    'jug'
    """

    name: str
    train: ImageSet
    test: ImageSet
    ks: Sequence[int] = (1, 10, 100, 1000)
    reported: Sequence[str] = ()
