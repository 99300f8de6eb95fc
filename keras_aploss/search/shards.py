"""Embeddings that many workers have written, brought into an index.

Nothing is embedded. Each row of a shard has the id of its content, as `index_folder`
makes it, and the absolute path: so `index_folder` finds these images unchanged.
"""

import os

import keras

from keras_aploss.embeddings import read_manifest, read_shards
from keras_aploss.search.vector_index import VectorIndex


def index_shards(
    index: VectorIndex, folder: str | os.PathLike, *, verbose: int = 0
) -> int:
    """Add the embeddings of a folder of shards to an index.

    Those that are in the index already are passed over, so that a call that was broken
    off can be repeated. Nothing is deleted. An image that was listed twice is added
    once.

    Args:
        index: of the same model.
        folder: what `extract_to_shards` wrote.
        verbose: 1 shows a progress bar.

    Returns:
        How many images were added or replaced.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the folder holds no shards or not all of them, or is of another
            model than the index (names both fingerprints).
        OSError: the index cannot be written. What was written stays.

    Example:
        with VectorIndex("photos.db", units=128, fingerprint=fingerprint) as index:
            index_shards(index, "shards")

    >>> from keras_aploss import VectorIndex
    >>> from keras_aploss.search import index_shards
    >>> index_shards(VectorIndex(units=2), "nowhere")
    Traceback (most recent call last):
    ...
    ValueError: Expected a folder of shards, as `extract_to_shards` writes it. Received:
    'nowhere', which has no readable '_manifest.json': No such file or directory. Check
    its spelling.
    """
    manifest = read_manifest(folder)
    if index.fingerprint is not None:
        index.require_model(manifest["settings"]["fingerprint"])
    there = {image.path: (image.id, image.label) for image in index.images()}
    progress = keras.utils.Progbar(
        manifest["shards"], verbose=verbose, unit_name="shard"
    )
    added = 0
    for number, shard in enumerate(read_shards(folder)):
        rows = {
            path: (id_, vector, path, label)
            for id_, vector, path, label in zip(*shard, strict=True)
            if there.get(path) != (id_, label)
        }
        if rows:
            index.add(*zip(*rows.values(), strict=True))
            there |= {path: (row[0], row[3]) for path, row in rows.items()}
        added += len(rows)
        progress.update(number + 1)
    index.flush()
    return added
