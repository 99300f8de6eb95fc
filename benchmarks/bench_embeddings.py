r"""Time and memory of query expansion and database-side augmentation.

Both find the nearest rows of a file that is not held in memory. The floor reads the
file in blocks and multiplies each with the queries, and writes a file where one comes
out. The whole matrix is the same in plain NumPy, as it is often written: all
similarities at once. The three alternate, each time in a process of its own, so that
the ratios say something on a busy machine too, and the memory is that of one of them.

    python benchmarks/bench_embeddings.py
    python benchmarks/bench_embeddings.py --rows 1000000 --units 2048 --queries 70 \
        --augment-rows 0

No rows leave a part out. Linux only. Dimension key: ``Q`` queries, ``N`` rows, ``D``
units, ``k`` neighbours.
"""

import argparse
import multiprocessing
import pathlib
import re
import tempfile
import time

import numpy as np

from keras_aploss import load_embeddings
from keras_aploss.embeddings import augment_database, expand_queries, unit_length


def memory() -> tuple[float, float]:
    """MiB of this process now, and at most so far."""
    status = pathlib.Path("/proc/self/status").read_text()
    peak, now = re.findall(r"Vm(?:HWM|RSS):\s+(\d+)", status)
    return int(now) / 2**10, int(peak) / 2**10


def measured(function) -> tuple[tuple[float, float, float], np.ndarray | None]:
    """Wall time, processor time and added memory of a call, and rows of its result.

    It is made in a new process.
    """

    def run(pipe):
        np.ones((512, 512), np.float32) @ np.ones((512, 512), np.float32)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before, _ = memory()
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((wall, cpu, memory()[1] - before))
        pipe.send(None if result is None else np.array(result[:100]))

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run, args=(sender,))
    process.start()
    sender.close()
    try:
        return receiver.recv(), receiver.recv()
    except EOFError:
        raise SystemExit("A process was ended. Is the memory full?") from None
    finally:
        process.join()


def write_rows(path: pathlib.Path, num: int, units: int) -> None:
    """A file of random embeddings, `(N, D)`, made block by block."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (num, units)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num, 4096):
            rows = rng.standard_normal((min(4096, num - start), units), np.float32)
            file.write(unit_length(rows))


def multiply(queries, path, shape) -> None:
    """Read the rows in blocks of at most 16 MiB, and multiply each with the queries."""
    num, units = shape
    block = min(4096, 2**22 // units)
    buffer = np.empty((len(queries), block), np.float32)
    for start in range(0, num, block):
        rows = read_rows(path, shape, start, block)
        np.matmul(queries, rows.T, out=buffer[:, : len(rows)])


def read_rows(path, shape, start, count) -> np.ndarray:
    """Some rows of the file, up to its end."""
    num, units = shape
    count = min(count, num - start)
    offset = path.stat().st_size - 4 * (num - start) * units  # the header lies before
    return np.fromfile(path, np.float32, count * units, offset=offset).reshape(
        -1, units
    )


def whole_matrix(queries, database, k, alpha, *, leave_out=False) -> np.ndarray:
    """The plain way: all similarities, sorted in part, and the sums of neighbours."""
    similarity = queries @ database.T  # (Q, N)
    if leave_out:
        np.fill_diagonal(similarity, -np.inf)
    nearest = np.argpartition(similarity, -k, axis=1)[:, -k:]  # (Q, k)
    weights = np.take_along_axis(similarity, nearest, axis=1)
    weights = np.maximum(weights, 0) ** alpha
    return unit_length(queries + np.einsum("qk,qkd->qd", weights, database[nearest]))


def compare(cases: dict, repeats: int) -> None:
    """Print time and memory of each case, beside those of the first."""
    numbers, results = {name: [] for name in cases}, {}
    for _ in range(repeats):
        for name, function in cases.items():
            row, results[name] = measured(function)
            numbers[name].append(row)
    floor = np.min(next(iter(numbers.values())), axis=0)
    print("                       wall                cpu                  added")
    for name, values in numbers.items():
        wall, cpu, added = np.min(values, axis=0)
        columns = f"{wall:8.2f} s {wall / floor[0]:5.2f} x {cpu:8.2f} s"
        print(f"{name:<18}{columns} {cpu / floor[1]:5.2f} x {added:7,.0f} MiB")
    _, ours, *plain = results.values()
    if plain:
        print(f"largest difference of the two: {np.abs(ours - plain[0]).max():.0e}")


def fits(num_queries: int, num_rows: int, args) -> bool:
    """Whether the whole matrix is to be tried; says so if not."""
    # Similarities of 4 bytes, the indices of 8 that `argpartition` makes of them.
    needed = (12 * num_queries * num_rows + 4 * num_rows * args.units) / 2**30
    if needed > args.memory:
        print(f"whole matrix: needs about {needed:,.0f} GiB, left out")
    return needed <= args.memory


def query_expansion(folder: pathlib.Path, args) -> None:
    """αQE of `--queries` by `--rows`."""
    path, shape = folder / "database.npy", (args.rows, args.units)
    write_rows(path, *shape)
    rng = np.random.default_rng(1)
    queries = unit_length(rng.standard_normal((args.queries, args.units), np.float32))
    database = load_embeddings(path)

    def ours() -> np.ndarray:
        return expand_queries(queries, database, k=args.k, alpha=args.alpha)

    def plain() -> np.ndarray:
        return whole_matrix(queries, np.load(path), args.k, args.alpha)

    print(
        f"query expansion: {args.queries:,} queries x {args.rows:,} rows x "
        f"{args.units} units, k = {args.k}"
    )
    print(f"rows {4 * args.rows * args.units / 2**20:,.0f} MiB on the disk")
    cases = {"read and multiply": lambda: multiply(queries, path, shape)}
    cases["expand_queries"] = ours
    if fits(args.queries, args.rows, args):
        cases["whole matrix"] = plain
    compare(cases, args.repeats)


def augmentation(folder: pathlib.Path, args) -> None:
    """Database-side augmentation of `--augment-rows`."""
    num = args.augment_rows
    path, out, shape = folder / "rows.npy", folder / "out.npy", (num, args.units)
    write_rows(path, *shape)
    database = load_embeddings(path)

    def floor() -> None:
        with open(out, "wb") as file:
            for start in range(0, num, 4096):
                queries = read_rows(path, shape, start, 4096)
                multiply(queries, path, shape)
                file.write(queries)

    def ours() -> np.ndarray:
        return augment_database(database, k=args.k, alpha=args.alpha, out=out)

    def plain() -> np.ndarray:
        rows = np.load(path)
        result = whole_matrix(rows, rows, args.k, args.alpha, leave_out=True)
        np.save(out, result)
        return result

    print(f"augmentation: {num:,} rows x {args.units} units, k = {args.k}")
    cases = {"read and multiply": floor, "augment_database": ours}
    if fits(num, num, args):
        cases["whole matrix"] = plain
    compare(cases, args.repeats)


def main() -> None:
    """Measure both, and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--augment-rows", type=int, default=20_000)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, default=8, help="GiB there are")
    args = parser.parse_args()
    for measure, rows in (
        (query_expansion, args.rows),
        (augmentation, args.augment_rows),
    ):
        if rows:
            with tempfile.TemporaryDirectory(dir=".") as folder:
                measure(pathlib.Path(folder), args)


if __name__ == "__main__":
    main()
