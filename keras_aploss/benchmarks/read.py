"""The benchmarks by their names."""

import functools
import os
import pathlib

from keras_aploss.benchmarks.benchmark import (
    ClassBenchmark,
    QueryBenchmark,
    check_boxes,
)
from keras_aploss.benchmarks.class_benchmarks import read_classes
from keras_aploss.benchmarks.files import Source, check_present
from keras_aploss.benchmarks.google_landmarks import read_google_landmarks
from keras_aploss.benchmarks.oxford_paris import read_buildings
from keras_aploss.benchmarks.sources import (
    BENCHMARK_URLS,
    BENCHMARKS,
    CLASS_URLS,
    IMAGE_URLS,
)


def read_benchmark(
    name: str,
    root: str | os.PathLike,
    *,
    image_size: int = 224,
    check_files: bool = True,
    verbose: int = 0,
) -> QueryBenchmark | ClassBenchmark:
    """Read a public benchmark from its files, as they are distributed.

    The module of each family, `keras_aploss.datasets.benchmarks`, tells which files it
    reads and where they may lie. Nothing is downloaded, and no image is decoded.

    Args:
        name: `"oxford5k"`, `"paris6k"`, `"roxford5k"`, `"rparis6k"`, `"gldv2"`,
            `"sop"`, `"cub200"` or `"inaturalist2018"`.
        root: The folder of the files.
        image_size: Length of the shorter side of the images in a `ClassBenchmark`.
        check_files: Whether to look for all images, and to compare the boxes with the
            headers. That takes a while on a slow disk; the images of Google Landmarks
            are three quarters of a million.
        verbose: 1 shows a progress bar over the files that are looked for.

    Returns:
        A `QueryBenchmark` (Oxford, Paris, Google Landmarks) or a `ClassBenchmark`.

    Raises:
        ValueError: If the name is unknown; if a file is missing (says which, from where
            it comes and where to put it) or not of its form; if images are missing,
            listed twice, or do not hold their box; if nothing is to be found. A
            pickle that names code is refused and not run.

    Example:
    >>> from keras_aploss import read_benchmark
    >>> read_benchmark("roxford5k", "/data")
    Traceback (most recent call last):
    ...
    ValueError: Expected roxford5k/gnd_roxford5k.pkl (or gnd_roxford5k.pkl) (or
    oxford5k/gnd_roxford5k.pkl) of roxford5k below root='/data'. Received: no such file.
    Download it from
    http://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl and put
    it at /data/roxford5k/gnd_roxford5k.pkl.
    """
    if name not in BENCHMARKS:
        raise ValueError(
            f"Expected one of {', '.join(BENCHMARKS)}. Received: {name=}. Other images "
            "are listed in a CSV file, for `image_manifest`."
        )
    root = pathlib.Path(root)
    readers = {
        **dict.fromkeys(IMAGE_URLS, functools.partial(read_buildings, name)),
        "gldv2": read_google_landmarks,
        **dict.fromkeys(
            CLASS_URLS, functools.partial(read_classes, name, image_size=image_size)
        ),
    }
    benchmark = readers[name](root)
    if check_files:
        source = Source(name, BENCHMARK_URLS[name], root)
        if isinstance(benchmark, QueryBenchmark):
            paths = [*benchmark.query_paths, *benchmark.database_paths]
        else:
            paths = benchmark.test.images.paths
        check_present(paths, source, verbose=verbose)
        if isinstance(benchmark, QueryBenchmark):
            check_boxes(benchmark)
    return benchmark
