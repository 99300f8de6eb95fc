"""An index of 100,000 embeddings: how long it takes to make, and to answer.

Exact search in NumPy is the floor: the product of a query with all embeddings, and the
k largest of it. Each index is timed as a multiple of this floor in the same process,
one query at a time, alternating with it; its recall@10 is against `top_k`.

    pip install ".[search]"
    python benchmarks/bench_search.py
    python benchmarks/bench_search.py --places file --types HNSW --clusters 1000

Random embeddings have no near neighbours: the hardest case for an index that does not
look at all of them. `--clusters` draws them around centres, as those of a trained model
lie. `--places` may name the address of a server.
"""

import argparse
import pathlib
import shutil
import tempfile
import time

import numpy as np

from keras_aploss import VectorIndex, top_k

K = 10


def draw(rng, num: int, units: int, clusters: int) -> np.ndarray:
    """Unit rows, `(num, units)`."""
    rows = rng.standard_normal((num, units), dtype=np.float32)
    if clusters:
        centres = rng.standard_normal((clusters, units), dtype=np.float32)
        rows = centres[rng.integers(0, clusters, num)] + 0.7 * rows
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def exact_search(query: np.ndarray, database: np.ndarray) -> np.ndarray:
    """The K nearest of one query, in NumPy."""
    similarity = database @ query
    best = np.argpartition(similarity, -K)[-K:]
    return best[np.argsort(-similarity[best])]


def milliseconds(function, *args) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    function(*args)
    return 1e3 * (time.perf_counter() - start)


def measure(place, index_type, database, queries, folder) -> str:
    """Fill an index and query it; a line of the table."""
    location = None if place == "memory" else place
    if place == "file":
        location = pathlib.Path(folder, f"{index_type}.db")
    count, units = database.shape
    texts = [f"{i:09d}" for i in range(count)]
    with VectorIndex(
        location, units=units, index_type=index_type, name=f"bench_{index_type}"
    ) as index:
        start = time.perf_counter()
        for first in range(0, count, 5000):
            some = slice(first, first + 5000)
            index.add(texts[some], database[some], texts[some])
        index.flush()
        index.search(queries[:1], K)  # of what is made at the first query
        seconds = time.perf_counter() - start
        floor, ours = [], []
        for query in queries:
            floor.append(milliseconds(exact_search, query, database))
            ours.append(milliseconds(index.search, query[None], K))
        start = time.perf_counter()
        found = index.search(queries, K)
        together = 1e3 * (time.perf_counter() - start) / len(queries)
        assert len(index) == count
    expected, _ = top_k(queries, database, K)
    recall = np.mean(
        [
            len({int(image.path) for image in row} & set(best.tolist())) / K
            for row, best in zip(found, expected, strict=True)
        ]
    )
    (p50, p95), exact = np.percentile(ours, [50, 95]), np.median(floor)
    return (
        f"{place:<7}{index_type:<10}{seconds:7.1f} s{p50:9.1f} ms{p95:9.1f} ms"
        f"{together:9.1f} ms{exact:9.1f} ms{p50 / exact:8.1f} x{recall:9.4f}"
    )


def main() -> None:
    """Measure each place with each type, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--clusters", type=int, default=0)
    parser.add_argument("--places", nargs="+", default=["memory", "file"])
    parser.add_argument("--types", nargs="+", default=["FLAT"])
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    rows = draw(rng, args.images + args.queries, args.units, args.clusters)
    database, queries = rows[: args.images], rows[args.images :]
    print(f"{args.images:,} embeddings of {args.units} units, {args.queries} queries")
    print(
        "place  type        build       p50         p95    at once    exact   "
        "p50/exact recall@10"
    )
    for place in args.places:
        for index_type in args.types if place != "memory" else ["FLAT"]:
            folder = tempfile.mkdtemp(dir=".")
            try:
                print(measure(place, index_type, database, queries, folder), flush=True)
            finally:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
