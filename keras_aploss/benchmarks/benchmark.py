"""What a benchmark is here: which images, and who is to find what.

Dimension key: Q queries, N images of the database.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from keras_aploss.datasets import ImageSet

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height change places


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
    """Images of classes: some to train on; of the others each finds its like.

    Attributes:
        name: as in `read_benchmark`.
        train: the training images.
        test: the images of other classes, each of which queries all the others.
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


def check_boxes(benchmark: QueryBenchmark) -> None:
    """Check, against the headers of the images, that each box lies in its image.

    Published boxes are rounded, so a pixel outside is granted.

    Raises:
        ValueError: if a box has no area or leaves its image, or a header is damaged.
    """
    for path, box in zip(benchmark.query_paths, benchmark.query_boxes, strict=True):
        if box is None:
            continue
        try:
            with PIL.Image.open(path) as image:
                width, height = image.size
                if image.getexif().get(_ORIENTATION, 1) >= 5:
                    width, height = height, width
        except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise ValueError(
                f"Expected a readable image of {benchmark.name}. Received: "
                f"path={path!r}: {error}. Download it again."
            ) from error
        left, top, right, bottom = box
        if not (-1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1):
            raise ValueError(
                "Expected a box (left, top, right, bottom) inside its image of "
                f"{width} x {height}. Received: box={tuple(box)} of path={path!r}. "
                "The image must be as published, neither resized nor rotated."
            )
