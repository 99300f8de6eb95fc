"""Embeddings of image files by a model server, in a `.npy` file that is resumable.

The server decodes and embeds; here files are read, sent, and the answers written. What
a model in this process writes with `extract_files` is written here by the same writer.

Dimension key: N files, B files in a request.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from keras_aploss.embeddings import EmbeddedBatch, NpyFile, write_embeddings
from keras_aploss.images import SkippedImage
from keras_aploss.serving.client import EmbeddingClient


def extract_by_server(
    client: EmbeddingClient,
    paths: Sequence[str],
    path: str | os.PathLike,
    *,
    left_out: Sequence[SkippedImage] = (),
    verbose: int = 0,
) -> tuple[np.ndarray, list[SkippedImage]]:
    """Write the embeddings of files by a model server, and list what was left out.

    The files, and resuming, are those of `extract_files`. All embeddings are of one
    version of the model: give the client that of `begun_settings(path)`, if there is
    one.

    Args:
        client: of the server and the model.
        paths: N files, each once.
        path: the `.npy` file.
        left_out: files to list as skipped as well, which are not among the paths.
        verbose: 1 shows a progress bar, with the images per second.

    Returns:
        The embeddings, mapped read-only, and the files that were left out.

    Raises:
        ValueError: `path` holds other embeddings (says what differs), the client
            refuses what it is answered, or no file at all can be embedded.
        ConnectionError: the server is down. What was done is kept.
        OSError: the disk is full, or another process writes to `path`. What was done
            is kept.

    Example:
        with EmbeddingClient("http://localhost:8501", model="landmarks") as client:
            embeddings, skipped = extract_by_server(client, paths, "photos.npy")
    """
    settings = {"server": client.server, "model": client.model}
    settings["model_version"] = client.version
    output = NpyFile(path, len(paths), settings, paths=paths, left_out=left_out)

    def produce(part):
        client.units = client.units or output.units
        return _embedded_batches(client, paths[part.start : part.stop])

    write_embeddings(output, produce, verbose=verbose)
    return output.load(), output.skipped


def _embedded_batches(client, paths) -> Iterator[EmbeddedBatch]:
    """Yield what the server answers, with the positions of the files left out."""
    places = {path: place for place, path in enumerate(paths)}
    start = 0
    for vectors, _, skipped in client.embed_batches(paths):
        reasons = {places[path] - start: reason for path, reason in skipped}
        batch = EmbeddedBatch(vectors, reasons)
        yield batch
        start += batch.size
