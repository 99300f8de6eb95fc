"""Time and memory of the exact evaluation, beside the bare matrix product.

The similarities are a product of (N, D) by (D, N), in blocks: that is the floor. The
evaluation is timed as a multiple of this floor in the same process, alternating, so
that the ratio says something on a busy machine too; processor time moves less.

    python benchmarks/bench_evaluation.py
    python benchmarks/bench_evaluation.py --images 100000 --units 2048 --queries 2000
    python benchmarks/bench_evaluation.py --distractors 1000000 --units 2048

`--queries` labels only the first images; the others are distractors. `--distractors`
measures something else: revisited Oxford (70 queries, 4,993 images, three protocols)
with distractors in a file that is not held in memory. Its floor reads the file in
blocks and multiplies each with the queries.
"""

import argparse
import pathlib
import platform
import resource
import tempfile
import time

import numpy as np

from keras_aploss.evaluation import (
    evaluate_leave_one_out,
    evaluate_protocols,
    top_k,
)


def seconds(function) -> tuple[float, float]:
    """The wall time of one call and its processor time, summed over the cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mebibytes() -> float:
    """The largest resident memory of this process so far (Linux counts KiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def unit_rows(rng, num: int, units: int) -> np.ndarray:
    """Random embeddings, `(num, units)`."""
    rows = rng.standard_normal((num, units), dtype=np.float32)
    # Without a temporary array, which would raise the peak before the evaluation.
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return rows


def with_distractors(num_distractors: int, units: int, repeats: int) -> None:
    """Time and memory of revisited Oxford with distractors in a file."""
    rng = np.random.default_rng(0)
    num_queries, num_images, block = 70, 4993, 2**24 // units
    queries, database = (unit_rows(rng, n, units) for n in (num_queries, num_images))
    lists = [rng.permutation(num_images)[:90] for _ in range(num_queries)]
    easy, hard, junk = (
        [row[part] for row in lists]
        for part in (slice(0, 40), slice(40, 75), slice(75, 90))
    )
    protocols = {
        "easy": (easy, [np.concatenate(p) for p in zip(hard, junk, strict=True)]),
        "medium": ([np.concatenate(p) for p in zip(easy, hard, strict=True)], junk),
        "hard": (hard, [np.concatenate(p) for p in zip(easy, junk, strict=True)]),
    }
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = pathlib.Path(folder, "distractors.npy")
        shape = (num_distractors, units)
        with open(path, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            for start in range(0, num_distractors, block):
                file.write(unit_rows(rng, min(block, num_distractors - start), units))
        distractors = np.load(path, mmap_mode="r")

        def floor() -> None:
            buffer = np.empty((num_queries, block), np.float32)
            for start in range(0, num_distractors, block):
                count = min(block, num_distractors - start)
                rows = np.fromfile(
                    path, np.float32, count * units, offset=offset + 4 * start * units
                ).reshape(count, units)
                np.matmul(queries, rows.T, out=buffer[:, :count])

        def evaluate() -> None:
            evaluate_protocols(
                queries,
                database,
                protocols,
                distractors=[distractors],
                interpolation="trapezoid",
            )

        times = {floor: [], evaluate: []}
        for _ in range(repeats):
            for function, values in times.items():
                values.append(seconds(function))
                if function is floor and len(values) == 1:
                    start_memory = peak_mebibytes()
    print(
        f"{num_queries} queries x {num_images:,} images and {num_distractors:,} "
        f"distractors x {units} units, 3 protocols"
    )
    print(f"distractors {4 * num_distractors * units / 2**20:,.0f} MiB on the disk")
    print(
        f"peak memory of the process: {start_memory:,.0f} MiB after the floor, "
        f"{peak_mebibytes():,.0f} MiB after the evaluations"
    )
    print_table({"read and multiply": times[floor], "evaluation": times[evaluate]})


def print_table(times: dict[str, list]) -> None:
    """Print the best of each, beside that of the first, the floor."""
    floor = np.min(next(iter(times.values())), axis=0)
    print("                     wall                cpu")
    for name, values in times.items():
        best = np.min(values, axis=0)
        columns = [
            f"{t:7.2f} s {ratio:5.2f} x"
            for t, ratio in zip(best, best / floor, strict=True)
        ]
        print(f"{name:<17}", *columns)


def main() -> None:
    """Alternate the evaluation, its floor and the search; print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--queries", type=int, help="default: all images")
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--distractors", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.distractors:
        with_distractors(args.distractors, args.units, args.repeats)
        return
    num_queries = args.queries or args.images

    rng = np.random.default_rng(0)
    embeddings = unit_rows(rng, args.images, args.units)
    labels = np.arange(args.images) // args.images_per_class
    labels[num_queries:] = -1
    start_memory = peak_mebibytes()

    block_size = max(1, 2**24 // args.images)

    def product() -> None:
        block = np.empty((block_size, args.images), np.float32)
        for start in range(0, num_queries, block_size):
            queries = embeddings[start : min(start + block_size, num_queries)]
            np.matmul(queries, embeddings.T, out=block[: len(queries)])

    def evaluate() -> None:
        evaluate_leave_one_out(embeddings, labels)

    def search() -> None:
        top_k(embeddings[:num_queries], embeddings, 10)

    times = {function: [] for function in (evaluate, product, search)}
    for _ in range(args.repeats):
        for function, values in times.items():
            values.append(seconds(function))
            if function is evaluate and len(values) == 1:
                memory = peak_mebibytes()

    print(
        f"{num_queries:,} queries x {args.images:,} images x {args.units} units, "
        f"{args.images_per_class} images per class"
    )
    print(f"embeddings {embeddings.nbytes / 2**20:,.0f} MiB")
    print(f"N x N similarities would take {4 * args.images**2 / 2**20:,.0f} MiB")
    print(
        f"peak memory of the process: {start_memory:,.0f} MiB with the libraries and "
        f"embeddings, {memory:,.0f} MiB after an evaluation"
    )
    print_table(
        {
            "matrix product": times[product],
            "evaluation": times[evaluate],
            "top_k, k = 10": times[search],
        }
    )


if __name__ == "__main__":
    main()
