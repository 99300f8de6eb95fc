"""A worker: the model in a process of its own, which embeds and writes shards.

A worker is a process of Ray that loads the model once. A path that the user gave may
exist on one machine only; so the model is brought to the workers in the folder of the
shards, which all of them see, since they write there.

A worker never raises: what went wrong is a part of its answer, in words, and the
process that asked raises it. So an error is one sentence here too, and not the
traceback of three machines.
"""

import contextlib
import copy
import hashlib
import os
import pathlib
import shutil
import socket
import uuid
from collections.abc import Iterator

import keras

from keras_aploss import layers  # noqa: F401  # registers what models are loaded with
from keras_aploss.embeddings import ReadableImages, ShardWriter, embedded_batches

_MAX_ATTEMPTS = 3  # workers that one shard may end


@contextlib.contextmanager
def model_file(model: keras.Model, folder: str) -> Iterator[tuple[str, str]]:
    """Write a model into a folder for as long as workers need it.

    Args:
        model: any that Keras saves, and one of `keras.layers.TFSMLayer`.
        folder: where to.

    Yields:
        The place, and the digest without which it is not loaded.
    """
    place = os.path.join(folder, f".model-{uuid.uuid4().hex}")
    exported = [x for x in model.layers if isinstance(x, keras.layers.TFSMLayer)]
    origins = [layer.filepath for layer in exported]
    try:
        os.makedirs(place)
        for number, layer in enumerate(exported):
            # Of a SavedModel a `.keras` file holds no more than the path.
            copied = os.path.join(place, f"saved_model_{number}")
            shutil.copytree(layer.filepath, copied)
            layer.filepath = copied
        model.save(os.path.join(place, "model.keras"))
        yield place, _digest(place)
    finally:
        for layer, origin in zip(exported, origins, strict=True):
            layer.filepath = origin
        shutil.rmtree(place, ignore_errors=True)


def load_model(place: str, digest: str) -> keras.Model:
    """The model of `model_file`, in another process."""
    if _digest(place) != digest:
        raise ValueError(
            f"Expected the model at {place!r}, as it was written. Received: another "
            "one. Is the folder the same on all machines? Rerun the command."
        )
    # A layer can be a program, which Keras loads only if it is told to. This is what
    # the caller had in memory, to the byte.
    return keras.saving.load_model(
        os.path.join(place, "model.keras"), compile=False, safe_mode=False
    )


def _digest(folder):
    """Of the names and the contents of all files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode())
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


class ShardEmbedder:
    """Embed shards, one after the other, in a worker.

    Args:
        writer: of the folder of the shards.
        model: where it is, and its digest, see `model_file`.
        images: an empty sequence that reads images as they are to be read.
        options: of `embedded_batches`; `workers` are threads.
        samples: images that exist where the work was begun.
    """

    def __init__(self, writer: ShardWriter, model, images, options, samples):
        self.writer, self.place, self.model = writer, model, None
        self.images, self.options, self.samples = images, options, samples

    def __call__(self, row: dict) -> dict:
        number = int(row["item"])
        answer = {"shard": number, "embedded": 0, "skipped": 0, "error": "", "why": ""}
        try:
            embedded, skipped = self._embed(number)
        # Anything at all: the process that asked can tell what it was.
        except Exception as error:
            why = str(error).strip() or type(error).__name__
            return answer | {"error": _kind(error), "why": why}
        return answer | {"embedded": embedded, "skipped": skipped}

    def _embed(self, number):
        """Write a shard; the numbers of its embeddings, and of what was left out."""
        about = self.writer.find(number)
        if about:  # the worker that had written it ended before it could say so
            return about["rows"], len(about["skipped"])
        self._require_samples()
        images = copy.copy(self.images)
        images.paths, _ = self.writer.images(number)
        attempts = attempts_path(self.writer.path(number))
        _count_attempt(attempts, number, images.paths)
        if self.model is None:
            self.model = load_model(*self.place)
        readable, part = ReadableImages(images), range(len(images))
        batches = embedded_batches(self.model, readable, part, **self.options)
        with contextlib.closing(batches):
            threads = self.options["workers"]
            embedded, skipped = self.writer.write(number, batches, threads)
        os.remove(attempts)
        return embedded, len(skipped)

    def _require_samples(self):
        host = socket.gethostname()
        for sample in self.samples:
            if not os.path.exists(sample):
                raise ValueError(
                    f"Expected to see the images on each machine. Received: {host!r}, "
                    f"where {sample!r} does not exist. Share their folder under the "
                    "same path."
                )


def _count_attempt(attempts, number, paths):
    """Give up a shard that has ended several workers."""
    with open(attempts, "ab") as file:
        file.write(b".")
        count = file.tell()
    if count > _MAX_ATTEMPTS:
        os.remove(attempts)
        raise RuntimeError(
            f"Expected shard {number}, of {paths[0]!r} to {paths[-1]!r}, to be "
            f"embedded. Received: {_MAX_ATTEMPTS} workers that ended while they had "
            "it, as they do without memory. Take fewer workers, a smaller batch or "
            "smaller images, and rerun the command to resume."
        )


def attempts_path(path: str) -> str:
    """The file that counts how many workers have begun a shard, a byte for each."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.attempts")


def _kind(error):
    """The kind of error that the process that asked is to raise."""
    for kind in (OSError, ValueError, MemoryError):
        if isinstance(error, kind):
            return kind.__name__
    return "RuntimeError"
