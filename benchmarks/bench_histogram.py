"""Ways to make the soft histograms of a block of similarities, in ns per similarity.

The two histograms of a query (its positives, all images) are the whole of a listwise
loss that is not a matrix product. Compared are the way of the package and others that
give the same counts; from similarities and labels to the histograms of each row:

    python benchmarks/bench_histogram.py
    KERAS_BACKEND=jax python benchmarks/bench_histogram.py

`ramps`: C_m as a sum of clipped ramps, for each bin. `two sums`, `pairs`: segment sums
of counts and of shares, apart or as pairs of floats (the way of the package on JAX and
PyTorch, and in float64). `packed`: one segment sum of integers that hold both (on
TensorFlow). `no relevance`: the way of the package without the comparison of labels:
what sorting a batch by label could save at most. `look-up`: the gradient, the slope of
its cell for each similarity.

Dimension key: ``b`` rows of the block, ``N`` columns, ``M`` bins.
"""

import argparse
import time

import keras
import numpy as np
from keras import ops

from keras_aploss.losses import cells


def ramps(similarity, relevance, bins):
    """Cumulative histograms, bin by bin: `(b, 2 M)`."""
    position = (bins.high - similarity) * bins.density
    relevance = ops.cast(relevance, similarity.dtype)
    above = [ops.clip(m + 1 - position, 0.0, 1.0) for m in range(bins.num_bins)]
    both = [ops.sum(weight, axis=1) for m in above for weight in (m, m * relevance)]
    return ops.stack(both, axis=1)


def segment_sums(entries, cell, bins):
    """Sums of one number, or one pair, per similarity in the cells of each row."""
    row = ops.arange(cell.shape[0], dtype="int32")[:, None]
    return ops.segment_sum(
        ops.reshape(entries, (-1, *entries.shape[2:])),
        ops.reshape(row * bins.num_cells + cell, (-1,)),
        num_segments=cell.shape[0] * bins.num_cells,
    )


def two_sums(similarity, relevance, bins):
    """A sum of ones and a sum of shares."""
    cell, share = cells.cells_of(similarity, relevance, bins)
    ones = ops.ones_like(share)
    return segment_sums(ones, cell, bins) + segment_sums(share, cell, bins)


def pairs(similarity, relevance, bins):
    """One sum of pairs (1, share)."""
    cell, share = cells.cells_of(similarity, relevance, bins)
    return segment_sums(ops.stack([ops.ones_like(share), share], axis=-1), cell, bins)


def packed(similarity, relevance, bins):
    """One sum of 64-bit integers; 32 bits on JAX, where they hold too little."""
    cell, share = cells.cells_of(similarity, relevance, bins)
    wide = keras.backend.backend() != "jax"
    entries = ops.cast(ops.round(share * 2.0**cells.SHARE_BITS), "int32")
    if wide:
        entries = ops.cast(entries, "int64") + (1 << cells.COUNT_SHIFT)
    return segment_sums(entries, cell, bins)


def the_package(similarity, relevance, bins):
    """What `ap_loss` does with a block."""
    cell, share = cells.cells_of(similarity, relevance, bins)
    return cells.histogram(cell, cells.entries_of(share), bins)


def no_relevance(similarity, relevance, bins):
    """The same if no image were relevant."""
    return the_package(similarity, ops.zeros((1, 1), dtype="bool"), bins)


def look_up(similarity, relevance, bins):
    """The gradient, from a table of slopes."""
    cell, _ = cells.cells_of(similarity, relevance, bins)
    slopes = ops.ones((cell.shape[0], bins.num_cells))
    return cells.look_up(slopes, cell, bins)


def compiled(function, mode):
    """`function`, as `mode` has it."""
    if mode == "graph":
        import tensorflow as tf

        return tf.function(function, jit_compile=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def nanoseconds(function, similarity, labels, repeats):
    """Best time of `repeats` calls per similarity."""
    times = []
    for _ in range(repeats + 1):  # the first one compiles
        start = time.perf_counter()
        ops.convert_to_numpy(function(similarity, *labels))
        times.append(time.perf_counter() - start)
    return min(times[1:]) / similarity.shape[0] / similarity.shape[1] * 1e9


def main() -> None:
    """Print a row for each way and a column for each mode and number of bins."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=768)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    similarity = rng.standard_normal((args.rows, args.columns), dtype=np.float32) / 8
    similarity = ops.convert_to_tensor(np.clip(similarity, -1, 1))
    labels = [
        ops.convert_to_tensor(np.arange(size, dtype="int32") // 8)
        for size in (args.rows, args.columns)
    ]
    backend = keras.backend.backend()
    modes = ["xla", "graph"] if backend == "tensorflow" else ["xla"]
    columns = [(mode, num_bins) for mode in modes for num_bins in (20, 100)]
    print(f"{args.rows} x {args.columns} similarities on {backend}, ns per similarity")
    print(" " * 14, *(f"{mode + f', M={bins}':>14}" for mode, bins in columns))

    def timed(way, mode, num_bins):
        bins = cells.Bins(num_bins, -1.0, 1.0)

        def block(similarity, row_labels, column_labels):
            relevance = ops.equal(row_labels[:, None], column_labels[None, :])
            return way(similarity, relevance, bins)

        return nanoseconds(compiled(block, mode), similarity, labels, args.repeats)

    for way in (ramps, two_sums, pairs, packed, the_package, no_relevance, look_up):
        figures = [f"{timed(way, *column):14.2f}" for column in columns]
        print(f"{way.__name__.replace('_', ' '):<14}", *figures, flush=True)


if __name__ == "__main__":
    main()
