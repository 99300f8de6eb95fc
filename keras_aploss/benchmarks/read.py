"""`read_benchmark`: a benchmark by its name, with all its images in their place."""

import functools
import os
import pathlib

import PIL.Image

from keras_aploss.benchmarks.benchmark import ClassBenchmark, QueryBenchmark
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

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height change places


def read_benchmark(
    name: str,
    root: str | os.PathLike,
    *,
    image_size: int = 224,
    check_files: bool = True,
    verbose: int = 0,
) -> QueryBenchmark | ClassBenchmark:
    """Read a public benchmark from its files, as they are distributed.

    The modules `oxford_paris`, `google_landmarks` and `class_benchmarks` of
    `keras_aploss.benchmarks` list the files that are read and where they may lie.
    Nothing is downloaded, and no image is decoded.

    Args:
        name: `"oxford5k"`, `"paris6k"`, `"roxford5k"`, `"rparis6k"`, `"gldv2"`,
            `"sop"`, `"cub200"` or `"inaturalist2018"`.
        root: the folder of the files.
        image_size: side of the square crops of a `ClassBenchmark`, in pixels.
        check_files: look for all images, and compare the boxes with the headers. That
            takes a while on a slow disk; the images of Google Landmarks are three
            quarters of a million.
        verbose: 1 shows a progress bar over the files that are looked for.

    Returns:
        A `QueryBenchmark` (Oxford, Paris, Google Landmarks) or a `ClassBenchmark`.

    Raises:
        ValueError: the name is unknown; a file is missing (says which, from where it
            comes and where to put it) or not of its form; images are missing, listed
            twice, or do not hold their box; no image is relevant to another. A pickle
            that names code is refused and not run.

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
            _check_boxes(benchmark)
    return benchmark


def _check_boxes(benchmark: QueryBenchmark) -> None:
    """Check, against the headers of the images, that each box lies in its image.

    Published boxes are rounded, so a pixel outside is granted.
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
