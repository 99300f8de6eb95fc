"""Google Landmarks v2: retrieval among 762,000 images, judged by mAP@100.

Of 117,577 test images, 1,129 show a landmark of the index; the others are Ignored and
no queries here. The queries are divided into a public and a private part, which the
competition has ranked by; each is a protocol.

Files that are read, below the root, in `metadata/`, or beside the images:

* `retrieval_solution_v2.1.csv`: id, images (ids, with blanks between), Usage;
* `index.csv` or `index_image_to_landmark.csv`: id.

Images: `index/0/1/2/0123....jpg` and `test/...`, as the archives unpack.

Reference: Weyand et al., "Google Landmarks Dataset v2", 2020.
"""

import os
import pathlib

import numpy as np

from keras_aploss.benchmarks.benchmark import QueryBenchmark
from keras_aploss.benchmarks.files import (
    Source,
    check_distinct,
    find_file,
    read_columns,
)
from keras_aploss.benchmarks.sources import GLDV2_URL

_SOLUTION = "retrieval_solution_v2.1.csv"
_USAGES = ("Public", "Private", "Ignored")


def read_google_landmarks(root: pathlib.Path) -> QueryBenchmark:
    """Read the retrieval task of Google Landmarks v2."""
    source = Source("gldv2", GLDV2_URL, root)
    solution = find_file(source, metadata_places(_SOLUTION, "test"))
    index = find_file(
        source,
        [
            *metadata_places("index.csv", "index"),
            *metadata_places("index_image_to_landmark.csv", "index"),
        ],
    )
    names = [name for (name,) in read_columns(index, ["id"])]
    check_distinct(names, f"the images of {index.name}")
    numbers = {name: number for number, name in enumerate(names)}
    rows = _queries(solution)
    listed = [images.split() for _, images, _ in rows]
    unknown = {name for images in listed for name in images} - set(numbers)
    if unknown:
        raise ValueError(
            f"Expected all relevant images to be in {str(index)!r}. Received: "
            f"{len(unknown)} others in {solution.name}, such as {min(unknown)}. Take "
            "both files from the same version."
        )
    relevant = [
        np.array(sorted({numbers[name] for name in images}), np.int64)
        for images in listed
    ]
    nothing = np.empty(0, np.int64)
    no_junk = [nothing] * len(rows)
    protocols = {
        usage.lower(): (
            [
                truth if row[2] == usage else nothing
                for row, truth in zip(rows, relevant, strict=True)
            ],
            no_junk,
        )
        for usage in _USAGES[:2]
        if any(row[2] == usage for row in rows)
    }
    return QueryBenchmark(
        "gldv2",
        [image_path(root, "test", name) for name, *_ in rows],
        [None] * len(rows),
        [image_path(root, "index", name) for name in names],
        protocols,
        ks=(100,),
        interpolation="step",
        reported=("map_at_100",),
    )


def _queries(solution: pathlib.Path) -> list[list[str]]:
    """The rows (id, images, Usage) of the queries."""
    rows = read_columns(solution, ["id", "images", "Usage"])
    others = sorted({usage for *_, usage in rows} - set(_USAGES))
    if others:
        raise ValueError(
            f"Expected a Usage of {', '.join(_USAGES)} in {str(solution)!r}. "
            f"Received: {', '.join(others)}."
        )
    rows = [row for row in rows if row[2] != "Ignored"]
    if not rows:
        raise ValueError(
            f"Expected queries, Public or Private, in {str(solution)!r}. Received: "
            "none. Download the file again."
        )
    check_distinct([name for name, *_ in rows], f"the queries of {solution.name}")
    return rows


def image_path(root: pathlib.Path, part: str, name: str) -> str:
    """The file of an image in the archives, in folders of its first three letters."""
    return os.fspath(root / part / name[0:1] / name[1:2] / name[2:3] / f"{name}.jpg")


def metadata_places(file: str, part: str) -> list[str]:
    """The places at which a CSV file of the data set may lie."""
    return [f"metadata/{file}", file, f"{part}/{file}"]
