"""Time and memory of the exact evaluation, beside the bare matrix product.

The similarities are a product of (N, D) by (D, N), in blocks: that is the floor. The
evaluation is timed as a multiple of this floor in the same process, alternating, so
that the ratio says something on a busy machine too; processor time moves less.

    python benchmarks/bench_evaluation.py
    python benchmarks/bench_evaluation.py --images 100000 --units 2048 --queries 2000

`--queries` labels only the first images; the others are distractors.
"""

import argparse
import platform
import resource
import time

import numpy as np

from keras_aploss.evaluation import evaluate_leave_one_out, top_k


def seconds(function) -> tuple[float, float]:
    """The wall time of one call and its processor time, summed over the cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mebibytes() -> float:
    """The largest resident memory of this process so far (Linux counts KiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def main() -> None:
    """Alternate the evaluation, its floor and the search; print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--queries", type=int, help="default: all images")
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    num_queries = args.queries or args.images

    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((args.images, args.units), dtype=np.float32)
    # Without a temporary array, which would raise the peak before the evaluation.
    embeddings /= np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))[:, None]
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
    floor = np.min(times[product], axis=0)
    print("                   wall                cpu")
    for name, function in [
        ("matrix product", product),
        ("evaluation", evaluate),
        ("top_k, k = 10", search),
    ]:
        best = np.min(times[function], axis=0)
        columns = [
            f"{t:7.2f} s {ratio:5.2f} x"
            for t, ratio in zip(best, best / floor, strict=True)
        ]
        print(f"{name:<15}", *columns)


if __name__ == "__main__":
    main()
