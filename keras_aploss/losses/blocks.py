r"""Cumulative soft histograms of long lists, block by block; never all similarities.

The similarities of a block of queries are made, counted by `histogram` and forgotten.
The gradient puts the slope of its interval in the place of each, and multiplies these
by the embeddings. The intervals of the first blocks are kept from one pass to the
other, as many as a fixed amount of memory holds; those of the others are made again.

Where a batch ranks itself, ``s_ij = s_ji``: each similarity is made once and counted in
two lists. The batch is cut into an odd number ``T = 2 h + 1`` of blocks in cyclic
order, and each block meets itself and the ``h`` blocks behind it, its *window*. So
every two blocks meet once:

    T = 5     columns 0 1 2 3 4
    row 0             ■ ■ ■ · ·
    row 1             · ■ ■ ■ ·
    row 2             · · ■ ■ ■
    row 3             ■ · · ■ ■
    row 4             ■ ■ · · ■

Loss and gradient together then cost little more than one and a half products of
``B² D`` multiplications (one half for the similarities and one for ``(G + Gᵀ) X``), or
two where similarities are made again. Automatic differentiation of a plain ``X Xᵀ``
costs three.

Dimension key: ``B`` batch, ``Q`` queries, ``N`` images of the database, ``D`` units,
``M`` bins, ``I`` intervals, ``T`` blocks of ``b`` images, ``W = (h + 1) b`` images of a
window.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_aploss.losses import histogram

# Similarities of a block. Each takes tens of bytes under XLA and up to 200 without,
# where every operation has arrays of its own.
MAX_PAIRS = 2**22
# Intervals kept for the gradient, a byte each for up to 126 bins and else four: all
# those of a batch of 10,000 images.
MAX_KEPT = 2**26
# Longer blocks do not multiply faster, and shorter ones save more by symmetry.
MAX_ROWS = 768


class _CyclicBlocks(NamedTuple):
    """`size` images in `2 half + 1` blocks of `block`, the last one filled up."""

    size: Any
    half: Any
    block: Any

    @classmethod
    def of(cls, size, most_rows):
        half = _num_blocks(size, most_rows) // 2
        return cls(size, half, block=_num_blocks(size, 2 * half + 1))

    @property
    def num_blocks(self):
        return 2 * self.half + 1

    @property
    def padding(self):
        return self.num_blocks * self.block - self.size

    @property
    def window(self):
        return (self.half + 1) * self.block

    @property
    def is_one_block(self):
        """Whether it is known that no block has others behind it."""
        return isinstance(self.half, int) and self.half == 0

    def unroll(self, x, fill=0):
        """Fill up the last block, and put the first `half` blocks behind it again."""
        x = _pad_rows(x, self.padding, fill)
        return ops.concatenate([x, x[: self.half * self.block]])

    def add_up(self, x):
        """Add what an image received in its two places: the transpose of `unroll`."""
        end = self.num_blocks * self.block
        total = x[: self.half * self.block] + x[end:]
        return ops.slice_update(x, (0,) * len(x.shape), total)[: self.size]


def counts_in_batch(embeddings, labels, bins, *, exclude_self=False, block_size=None):
    """Cumulative soft histograms of the batch as each of its images ranks it.

    Args:
        embeddings: float tensor `(B, D)`.
        labels: integer tensor `(B,)`. A negative label is relevant to none.
        bins: a `histogram.Bins`.
        exclude_self: whether an image is left out of its own list.
        block_size: the most rows of a block; `None` chooses.

    Returns:
        Tensor `(B, 2, M)`, see `histogram.cumulative_counts`, with a gradient in closed
        form.
    """
    size = ops.shape(embeddings)[0]
    layout = _CyclicBlocks.of(size, block_size or _choose_rows((size + 1) // 2))
    block, window = layout.block, layout.window
    query_labels, list_labels = _never_equal_if_negative(layout.unroll(labels, -1))
    left_out = _is_at(0, block, window) if exclude_self else None  # (W, b)

    @ops.custom_gradient
    def counts(x):
        images = layout.unroll(x)  # (T b + h b, D)

        def make(i):
            return _make_block(
                _rows(images, i * block, window),
                _rows(list_labels, i * block, window),
                _rows(images, i * block, block),
                _rows(query_labels, i * block, block),
                bins,
                left_out,
            )  # (W, b)

        def count(i, sums, interval, contribution):
            of_block = histogram.interval_sums(interval, contribution, bins, axis=1)
            parts = [of_block]  # (b, I)
            if not layout.is_one_block:
                behind = interval[block:], contribution[block:]
                parts.append(histogram.interval_sums(*behind, bins))  # (W - b, I)
            return _add_rows(sums, i * block, parts)

        zero = histogram.interval_sums_of_zero(bins, x.dtype)
        sums = ops.zeros((ops.shape(images)[0], *zero.shape[1:]), zero.dtype)
        blocks = _BlockLoop(layout.num_blocks, (window, block), bins)
        sums, kept = blocks.count(make, count, sums)
        # Each list has met the zeros of the padding.
        sums = layout.add_up(sums) - zero * ops.cast(layout.padding, zero.dtype)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            slopes = layout.unroll(histogram.slopes_of(upstream, bins))

            def add(i, total, interval):
                slope = _rows(slopes, i * block, window)
                # ∂/∂s_ij + ∂/∂s_ji, a block of G + Gᵀ
                of_row = histogram.gather_slopes(slope, interval, bins)
                of_column = histogram.gather_slopes(slope, interval, bins, axis=1)
                pull = of_row + of_column  # (W, b)
                seen = _rows(images, i * block, window)
                of_block = ops.matmul(ops.transpose(pull), seen)
                of_behind = ops.matmul(pull[block:], seen[:block])
                return _add_rows(total, i * block, [of_block, of_behind])

            total = blocks.add(make, add, ops.zeros_like(images), kept)
            return layout.add_up(total)

        return histogram.cumulative_counts(sums, bins, x.dtype), gradient

    return counts(embeddings)


def counts_in_database(
    queries,
    query_labels,
    database,
    database_labels,
    bins,
    *,
    first=None,
    block_size=None,
):
    """Cumulative soft histograms of a database as queries rank it.

    Args:
        queries: float tensor `(Q, D)`.
        query_labels: integer tensor `(Q,)`.
        database: float tensor `(N, D)`.
        database_labels: integer tensor `(N,)`. A negative label is relevant to none.
        bins: a `histogram.Bins`.
        first: where the queries stand one after the other in the database, the place of
            the first; each is left out of its own list. `None` leaves out nothing.
        block_size: the most queries of a block; `None` chooses.

    Returns:
        Tensor `(Q, 2, M)`, see `histogram.cumulative_counts`, with gradients to queries
        and database in closed form.
    """
    size, length = ops.shape(queries)[0], ops.shape(database)[0]
    # A device may have no query at all.
    num_blocks = _at_least_one(_num_blocks(size, block_size or _choose_rows(length)))
    block = _at_least_one(_num_blocks(size, num_blocks))
    padding = num_blocks * block - size
    query_labels, _ = _never_equal_if_negative(_pad_rows(query_labels, padding, -1))
    _, list_labels = _never_equal_if_negative(database_labels)

    @ops.custom_gradient
    def counts(queries, database):
        images = _pad_rows(queries, padding)

        def make(i):
            start = i * block
            left_out = None if first is None else _is_at(first + start, block, length)
            lists = database, list_labels
            own = _rows(images, start, block), _rows(query_labels, start, block)
            return _make_block(*lists, *own, bins, left_out)  # (N, b)

        def count(i, sums, interval, contribution):
            of_block = histogram.interval_sums(interval, contribution, bins, axis=1)
            return _add_rows(sums, i * block, [of_block])  # (b, I)

        zero = histogram.interval_sums_of_zero(bins, queries.dtype)
        sums = ops.zeros((num_blocks * block, *zero.shape[1:]), zero.dtype)
        blocks = _BlockLoop(num_blocks, (length, block), bins)
        sums, kept = blocks.count(make, count, sums)  # (T b, I)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            slopes = _pad_rows(histogram.slopes_of(upstream, bins), padding)

            def add(i, totals, interval):
                slope = _rows(slopes, i * block, block)
                pull = histogram.gather_slopes(slope, interval, bins, axis=1)  # (N, b)
                of_block = ops.matmul(ops.transpose(pull), database)
                of_database = ops.matmul(pull, _rows(images, i * block, block))
                total, of_others = totals
                return _add_rows(total, i * block, [of_block]), of_others + of_database

            totals = ops.zeros_like(images), ops.zeros_like(database)
            of_queries, of_database = blocks.add(make, add, totals, kept)
            return of_queries[:size], of_database

        sums = sums[:size]
        return histogram.cumulative_counts(sums, bins, queries.dtype), gradient

    return counts(queries, database)


class _BlockLoop(NamedTuple):
    """Loops over blocks; the intervals of the first are kept for the second loop."""

    num_blocks: Any
    shape: Any
    bins: Any

    @property
    def num_kept(self):
        """At least one, as it is at hand."""
        in_memory = MAX_KEPT // (self.shape[0] * self.shape[1])
        if isinstance(in_memory, int) and isinstance(self.num_blocks, int):
            return max(1, min(in_memory, self.num_blocks))
        return ops.clip(in_memory, 1, self.num_blocks)

    def count(self, make, count, sums):
        """Make and count all blocks; return the sums and the intervals kept."""
        dtype = "uint8" if self.bins.num_intervals <= 256 else "int32"

        def count_and_keep(i, state):
            sums, kept = state
            interval, contribution = make(one_at_a_time(i, sums))
            row = ops.expand_dims(ops.cast(interval, dtype), 0)
            sums = count(i, sums, interval, contribution)
            return sums, ops.slice_update(kept, (i, 0, 0), row)

        def count_only(i, sums):
            return count(i, sums, *make(one_at_a_time(i, sums)))

        kept = ops.zeros((self.num_kept, *self.shape), dtype)
        sums, kept = ops.fori_loop(0, self.num_kept, count_and_keep, (sums, kept))
        return ops.fori_loop(self.num_kept, self.num_blocks, count_only, sums), kept

    def add(self, make, add, totals, kept):
        """Add what each block adds to the gradients; make those that are not kept."""

        def add_kept(i, totals):
            start = one_at_a_time(i, totals), 0, 0
            interval = ops.slice(kept, start, (1, *self.shape))[0]
            return add(i, totals, ops.cast(interval, "int32"))

        def add_made(i, totals):
            return add(i, totals, make(one_at_a_time(i, totals))[0])

        totals = ops.fori_loop(0, self.num_kept, add_kept, totals)
        return ops.fori_loop(self.num_kept, self.num_blocks, add_made, totals)


def one_at_a_time(i, state):
    """The index `i` of a loop, as soon as the `state` of the round before is there.

    TensorFlow starts a round of a loop before the last one has ended, wherever it can:
    up to ten blocks would be in memory at once.
    """
    state = state[0] if isinstance(state, tuple) else state
    x = state[(0,) * len(state.shape)]
    never = ops.logical_and(x < 0, x > 0)
    return i + ops.cast(never, "int32")


def _make_block(images, list_labels, queries, query_labels, bins, left_out=None):
    """Interval and contribution of each image in the list of each query: `(N, Q)`."""
    # The smaller matrix is transposed, and scaled in the place of the product.
    scaled = ops.matmul(images, ops.transpose(queries) * bins.density)
    relevance = ops.equal(list_labels[:, None], query_labels[None, :])
    interval, fraction = histogram.intervals_of_scaled(scaled, relevance, bins)
    if left_out is not None:
        interval = ops.where(left_out, bins.left_out, interval)
    return interval, histogram.contributions(fraction)


def _is_at(first, size, length):
    """Whether an image of a list is the query, if it holds them: `(length, size)`."""
    place = first + ops.arange(size, dtype="int32")
    return ops.arange(length, dtype="int32")[:, None] == place[None, :]


def _choose_rows(columns):
    rows = MAX_PAIRS // columns
    if isinstance(rows, int):  # else the size is not known before the run
        return min(max(rows, 1), MAX_ROWS)
    return ops.clip(rows, 1, MAX_ROWS)


def _num_blocks(size, block):
    return (size - 1) // block + 1


def _at_least_one(size):
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, 1)


def _never_equal_if_negative(labels):
    """Labels to compare: as those of queries, and as those of a list."""
    is_class = labels >= 0
    return ops.where(is_class, labels, -1), ops.where(is_class, labels, -2)


def _pad_rows(x, padding, fill=0):
    rows = ops.full((padding, *x.shape[1:]), fill, dtype=x.dtype)
    return ops.concatenate([x, rows])


def _rows(x, start, count):
    rest = tuple(x.shape[1:])
    return ops.slice(x, (start, *(0 for _ in rest)), (count, *rest))


def _add_rows(x, start, parts):
    """Add `parts`, one after the other, to the rows of `x` from `start` on."""
    parts = parts[0] if len(parts) == 1 else ops.concatenate(parts)
    rows = _rows(x, start, ops.shape(parts)[0]) + parts
    return ops.slice_update(x, (start, *(0 for _ in x.shape[1:])), rows)
