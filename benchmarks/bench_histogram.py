"""Ways to make the soft histograms of a block of similarities, in ns per similarity.

The two histograms of a query (its positives, all images) are the whole of a listwise
loss that is not a matrix product. Compared are the way of the package and others that
give the same counts; from similarities and labels to the histograms of each row:

    python benchmarks/bench_histogram.py
    KERAS_BACKEND=jax python benchmarks/bench_histogram.py

`ramps`: C_m as a sum of clipped ramps, for each bin. `two sums`, `pairs`: segment sums
of counts and of fractions, apart or as pairs of floats (the way of the package on JAX
and PyTorch, and in float64). `packed`: one segment sum of integers that hold both (on
TensorFlow). `no relevance`: the way of the package without the comparison of labels:
the most that sorting a batch by label could save. `gather`: the gradient, the slope of
its interval for each similarity.

Dimension key: ``b`` rows of the block, ``N`` columns, ``M`` bins.
"""

import argparse
import time

import keras
import numpy as np
from keras import ops

from keras_aploss.losses import histogram


def ramps(similarity, relevance, bins):
    """Cumulative histograms, bin by bin: `(b, 2 M)`."""
    position = (bins.high - similarity) * bins.density
    relevance = ops.cast(relevance, similarity.dtype)
    above = [ops.clip(m + 1 - position, 0.0, 1.0) for m in range(bins.num_bins)]
    both = [ops.sum(weight, axis=1) for m in above for weight in (m, m * relevance)]
    return ops.stack(both, axis=1)


def segment_sums(values, interval, bins):
    """Sums of one number, or one pair, per similarity in the intervals of each row."""
    row = ops.arange(interval.shape[0], dtype="int32")[:, None]
    return ops.segment_sum(
        ops.reshape(values, (-1, *values.shape[2:])),
        ops.reshape(row * bins.num_intervals + interval, (-1,)),
        num_segments=interval.shape[0] * bins.num_intervals,
    )


def two_sums(similarity, relevance, bins):
    """A sum of ones and a sum of fractions."""
    interval, fraction = histogram.intervals_of(similarity, relevance, bins)
    count = segment_sums(ops.ones_like(fraction), interval, bins)
    return count + segment_sums(fraction, interval, bins)


def pairs(similarity, relevance, bins):
    """One sum of pairs (1, fraction)."""
    interval, fraction = histogram.intervals_of(similarity, relevance, bins)
    pair = ops.stack([ops.ones_like(fraction), fraction], axis=-1)
    return segment_sums(pair, interval, bins)


def packed(similarity, relevance, bins):
    """One sum of 64-bit integers; 32 bits on JAX, where they hold too little."""
    interval, fraction = histogram.intervals_of(similarity, relevance, bins)
    wide = keras.backend.backend() != "jax"
    both = ops.cast(ops.round(fraction * 2.0**histogram.FRACTION_BITS), "int32")
    if wide:
        both = ops.cast(both, "int64") + (1 << histogram.COUNT_SHIFT)
    return segment_sums(both, interval, bins)


def the_package(similarity, relevance, bins):
    """As `ap_loss` does with a block."""
    interval, fraction = histogram.intervals_of(similarity, relevance, bins)
    return histogram.interval_sums(interval, histogram.contributions(fraction), bins)


def no_relevance(similarity, relevance, bins):
    """The same if no image were relevant."""
    return the_package(similarity, ops.zeros((1, 1), dtype="bool"), bins)


def gather(similarity, relevance, bins):
    """The gradient, from a table of slopes."""
    interval, _ = histogram.intervals_of(similarity, relevance, bins)
    slopes = ops.ones((interval.shape[0], bins.num_intervals))
    return histogram.gather_slopes(slopes, interval, bins)


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
        bins = histogram.Bins(num_bins, -1.0, 1.0)

        def block(similarity, row_labels, column_labels):
            relevance = ops.equal(row_labels[:, None], column_labels[None, :])
            return way(similarity, relevance, bins)

        return nanoseconds(compiled(block, mode), similarity, labels, args.repeats)

    for way in (ramps, two_sums, pairs, packed, the_package, no_relevance, gather):
        figures = [f"{timed(way, *column):14.2f}" for column in columns]
        print(f"{way.__name__.replace('_', ' '):<14}", *figures, flush=True)


if __name__ == "__main__":
    main()
