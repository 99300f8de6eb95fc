r"""Cumulative soft histograms of long lists, block by block; never all similarities.

The similarities of a block of queries are made, counted in cells and forgotten. The
gradient makes them again, puts the slope of its cell in the place of each, and
multiplies these by the embeddings. A block is all that is ever held of them.

Where a batch ranks itself, ``s_ij = s_ji``: each similarity is made once and counted in
two lists. The images stand in a circle of an odd number ``T = 2 h + 1`` of blocks, and
each block meets itself and the ``h`` blocks behind it, its *window*. So every two
blocks meet once:

    T = 5     columns 0 1 2 3 4
    row 0             ■ ■ ■ · ·
    row 1             · ■ ■ ■ ·
    row 2             · · ■ ■ ■
    row 3             ■ · · ■ ■
    row 4             ■ ■ · · ■

Loss and gradient together then cost little more than two products of ``B² D``
multiplications (one half each for the similarities, forward and backward, and one for
``(G + Gᵀ) X``), where automatic differentiation of a plain ``X Xᵀ`` costs three.

Dimension key: ``B`` batch, ``Q`` queries, ``N`` images of the database, ``D`` units,
``M`` bins, ``C`` cells, ``T`` blocks of ``b`` images, ``W = (h + 1) b`` of a window.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_aploss.losses import cells

# Similarities of a block. Each takes about 25 bytes under XLA and 200 without, where
# every operation has arrays of its own.
MAX_PAIRS = 2**22
# Longer blocks do not multiply faster, and shorter ones save more by symmetry.
MAX_ROWS = 768


class _Circle(NamedTuple):
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

    def lay_out(self, x, fill=0):
        """Fill up the last block, and put the first `half` blocks behind it again."""
        x = _pad_rows(x, self.padding, fill)
        return ops.concatenate([x, x[: self.half * self.block]])

    def gather(self, x):
        """Add what an image received in its two places: the transpose of `lay_out`."""
        end = self.num_blocks * self.block
        total = x[: self.half * self.block] + x[end:]
        return ops.slice_update(x, (0,) * len(x.shape), total)[: self.size]


def counts_in_batch(embeddings, labels, bins, *, exclude_self=False, block_size=None):
    """Cumulative soft histograms of the batch as each of its images ranks it.

    Args:
        embeddings: float tensor `(B, D)`.
        labels: integer tensor `(B,)`. A negative label is relevant to none.
        bins: a `cells.Bins`.
        exclude_self: whether an image is left out of its own list.
        block_size: the most rows of a block; `None` chooses.

    Returns:
        Tensor `(B, 2, M)`, see `cells.cumulative_counts`. Its gradient is closed-form.
    """
    size = ops.shape(embeddings)[0]
    circle = _Circle.of(size, block_size or _choose_rows((size + 1) // 2))
    block, window = circle.block, circle.window
    query_labels, list_labels = _never_equal_if_negative(circle.lay_out(labels, -1))
    is_self = ops.arange(block)[:, None] == ops.arange(window)[None, :]  # (b, W)
    left_out = is_self if exclude_self else None

    @ops.custom_gradient
    def counts(x):
        images = circle.lay_out(x)  # (T b + h b, D)
        columns = ops.transpose(images)  # without XLA, products with it are faster

        def cells_of_block(i):
            start = i * block
            return _block_of_cells(
                _rows(images, start, block),
                ops.slice(columns, (0, start), (x.shape[1], window)),
                _rows(query_labels, start, block),
                _rows(list_labels, start, window),
                bins,
                left_out,
            )  # (b, W)

        def count(i, sums):
            cell, share = cells_of_block(i)
            parts = [cells.histogram(cell, share, bins)]  # (b, C)
            if not circle.is_one_block:
                behind = cell[:, block:], share[:, block:]
                parts.append(cells.histogram(*behind, bins, axis=1))  # (W - b, C)
            return _add_rows(sums, i * block, parts)

        zero = cells.histogram_of_zero(bins, x.dtype)
        sums = ops.zeros((ops.shape(images)[0], *zero.shape[1:]), zero.dtype)
        sums = circle.gather(ops.fori_loop(0, circle.num_blocks, count, sums))
        # Each list has met the zeros of the padding.
        sums = sums - zero * ops.cast(circle.padding, zero.dtype)  # (B, C)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            slopes = circle.lay_out(cells.slopes_of(upstream, bins))

            def add(i, total):
                start = i * block
                cell, _ = cells_of_block(i)
                slope = _rows(slopes, start, window)
                # ∂/∂s_ij + ∂/∂s_ji, a block of G + Gᵀ
                pull = cells.look_up(slope, cell, bins)
                pull = pull + cells.look_up(slope, cell, bins, axis=1)  # (b, W)
                behind = ops.transpose(pull[:, block:])
                of_rows = ops.matmul(pull, _rows(images, start, window))
                of_columns = ops.matmul(behind, _rows(images, start, block))
                return _add_rows(total, start, [of_rows, of_columns])

            total = ops.fori_loop(0, circle.num_blocks, add, ops.zeros_like(images))
            return circle.gather(total)

        return cells.cumulative_counts(sums, bins, x.dtype), gradient

    return counts(embeddings)


def counts_in_database(
    queries, query_labels, database, database_labels, bins, *, block_size=None
):
    """Cumulative soft histograms of a database as queries rank it.

    Args:
        queries: float tensor `(Q, D)`.
        query_labels: integer tensor `(Q,)`.
        database: float tensor `(N, D)`.
        database_labels: integer tensor `(N,)`. A negative label is relevant to none.
        bins: a `cells.Bins`.
        block_size: the most queries of a block; `None` chooses.

    Returns:
        Tensor `(Q, 2, M)`, see `cells.cumulative_counts`. Its gradients, to queries and
        database, are closed-form.
    """
    size, length = ops.shape(queries)[0], ops.shape(database)[0]
    num_blocks = _num_blocks(size, block_size or _choose_rows(length))
    block = _num_blocks(size, num_blocks)
    padding = num_blocks * block - size
    query_labels, _ = _never_equal_if_negative(_pad_rows(query_labels, padding, -1))
    _, list_labels = _never_equal_if_negative(database_labels)

    @ops.custom_gradient
    def counts(queries, database):
        images, columns = _pad_rows(queries, padding), ops.transpose(database)

        def cells_of_block(i):
            return _block_of_cells(
                _rows(images, i * block, block),
                columns,
                _rows(query_labels, i * block, block),
                list_labels,
                bins,
            )  # (b, N)

        def count(i, sums):
            of_rows = cells.histogram(*cells_of_block(i), bins)  # (b, C)
            return _add_rows(sums, i * block, [of_rows])

        zero = cells.histogram_of_zero(bins, queries.dtype)
        sums = ops.zeros((num_blocks * block, *zero.shape[1:]), zero.dtype)
        sums = ops.fori_loop(0, num_blocks, count, sums)[:size]  # (Q, C)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            slopes = _pad_rows(cells.slopes_of(upstream, bins), padding)

            def add(i, totals):
                start = i * block
                cell, _ = cells_of_block(i)
                pull = cells.look_up(_rows(slopes, start, block), cell, bins)  # (b, N)
                of_rows = ops.matmul(pull, database)
                rows = _rows(images, start, block)
                return (
                    _add_rows(totals[0], start, [of_rows]),
                    totals[1] + ops.matmul(ops.transpose(pull), rows),
                )

            totals = ops.zeros_like(images), ops.zeros_like(database)
            totals = ops.fori_loop(0, num_blocks, add, totals)
            return totals[0][:size], totals[1]

        return cells.cumulative_counts(sums, bins, queries.dtype), gradient

    return counts(queries, database)


def _block_of_cells(rows, columns, row_labels, column_labels, bins, left_out=None):
    similarity = ops.matmul(rows, columns)
    relevance = ops.equal(row_labels[:, None], column_labels[None, :])
    cell, share = cells.cells_of(similarity, relevance, bins)
    if left_out is not None:
        cell = ops.where(left_out, bins.left_out, cell)
    return cell, share


def _choose_rows(columns):
    rows = MAX_PAIRS // columns
    if isinstance(rows, int):  # else the size is not known before the run
        return min(max(rows, 1), MAX_ROWS)
    return ops.clip(rows, 1, MAX_ROWS)


def _num_blocks(size, block):
    return (size - 1) // block + 1


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
