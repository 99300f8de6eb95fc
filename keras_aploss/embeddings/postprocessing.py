"""The steps between the network and the ranking, in their order.

    extraction: scales combined ─ L2
    here: whiten ─ L2 ─ database augmentation ─ query expansion ─> dot product

Queries are expanded by images of the augmented database. In another order the published
numbers do not come out.
"""

import contextlib
import os
import tempfile

import numpy as np

from keras_aploss.embeddings.expansion import augment_database, expand_queries
from keras_aploss.embeddings.whitening import whiten_embeddings


def postprocess_embeddings(
    queries,
    database,
    *,
    whitening=None,
    database_augmentation: tuple[int, float] | None = None,
    query_expansion: tuple[int, float] | None = None,
    out: str | os.PathLike | None = None,
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Whiten, augment the database, then expand the queries: each step if asked for.

    Args:
        queries: `(Q, D)` floats.
        database: `(N, D)` floats; a mapped file too.
        whitening: for both, as for `whiten_embeddings`; None leaves it out. Without it
            the rows must have unit length already.
        database_augmentation: `(k, alpha)` of `augment_database`, or None.
        query_expansion: `(k, alpha)` of `expand_queries`, or None.
        out: `.npy` file for the database that comes out, for more than fits the
            memory. The whitened one stands beside it for as long as it is needed.
        verbose: 1 shows progress bars.

    Returns:
        Queries and database, float32 of unit length, whose dot products rank. What no
        step changes is returned as it came.

    Raises:
        ValueError: as the functions named here.
        OSError: if `out` cannot be written.

    Example:
    >>> import numpy as np
    >>> from keras_aploss import postprocess_embeddings
    >>> identity = np.zeros(2), np.eye(2)
    >>> queries, database = postprocess_embeddings(
    ...     np.array([[2.0, 0.0]]),
    ...     np.array([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]]),
    ...     whitening=identity,
    ...     database_augmentation=(1, 0.0),
    ...     query_expansion=(1, 0.0),
    ... )
    >>> database.round(4)[:2]
    array([[0.7071, 0.7071],
           [0.7071, 0.7071]], dtype=float32)
    >>> queries.round(4)
    array([[0.9239, 0.3827]], dtype=float32)
    """
    with contextlib.ExitStack() as stack:
        if whitening is not None:
            whitened = out
            if out is not None and database_augmentation is not None:
                beside = os.path.dirname(os.path.abspath(out))
                folder = tempfile.TemporaryDirectory(prefix="whitened_", dir=beside)
                whitened = os.path.join(stack.enter_context(folder), "database.npy")
            queries = whiten_embeddings(queries, whitening)
            database = whiten_embeddings(
                database, whitening, out=whitened, verbose=verbose
            )
        if database_augmentation is not None:
            k, alpha = database_augmentation
            database = augment_database(
                database, k=k, alpha=alpha, out=out, verbose=verbose
            )
    if query_expansion is not None:
        k, alpha = query_expansion
        queries = expand_queries(queries, database, k=k, alpha=alpha, verbose=verbose)
    return queries, database
