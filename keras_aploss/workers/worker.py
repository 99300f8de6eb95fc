"""What a worker does: the images of a shard, embedded and written.

A worker is a process of Ray that loads the model once. It never raises: what went wrong
is a part of its answer, in words, and the process that asked raises it. So an error is
one sentence here too, and not the traceback of three machines.

Dimension key: B images of a shard, S scales, D units.
"""

import copy
import os
import socket

import numpy as np

from keras_aploss.embeddings import (
    EmbeddingShard,
    combine_scales,
    embed_at_scales,
    read_about,
    read_images,
    shard_path,
    write_shard,
)
from keras_aploss.images import SkippedImage, find_unreadable
from keras_aploss.search import hash_files
from keras_aploss.workers.model_file import load_model

_MAX_ATTEMPTS = 3  # workers that one shard may end


class ShardEmbedder:
    """Embed shards, one after the other, in a worker.

    Args:
        folder: of the shards.
        digest: of their settings.
        model: where it is, and its digest, see `model_file`.
        images: an empty sequence that reads images as they are to be read.
        scales, power, batch_size: see `extract_embeddings`.
        threads: that read.
        units: D.
        samples: images that exist where the work was begun.
    """

    def __init__(
        self, folder, digest, model, images, scales, power, batch_size, threads, units,
        samples,
    ):  # fmt: skip
        self.folder, self.digest, self.model = folder, digest, None
        self.place, self.images, self.threads = model, images, threads
        self.scales, self.power, self.batch_size = scales, power, batch_size
        self.units, self.samples = units, samples

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
        path = shard_path(self.folder, number)
        about = read_about(path)
        if about and about.get("settings") == self.digest:
            # The worker that had written it ended before it could say so.
            return about["rows"], len(about["skipped"])
        attempts = attempts_path(path)
        shard, skipped = self._embed_images(self._begin(number, attempts))
        about = {"settings": self.digest, "shard": number, "skipped": skipped}
        write_shard(path, shard, about)
        os.remove(attempts)
        return len(shard.paths), len(skipped)

    def _begin(self, number, attempts):
        """The paths and labels of a shard, if this worker can embed them."""
        host = socket.gethostname()
        for sample in self.samples:
            if not os.path.exists(sample):
                raise ValueError(
                    f"Expected to see the images on each machine. Received: {host!r}, "
                    f"where {sample!r} does not exist. Share their folder under the "
                    "same path."
                )
        paths, labels = read_images(self.folder, number)
        with open(attempts, "ab") as file:
            file.write(b".")
            count = file.tell()
        if count > _MAX_ATTEMPTS:
            os.remove(attempts)
            raise RuntimeError(
                f"Expected shard {number}, of {paths[0]!r} to {paths[-1]!r}, to be "
                f"embedded. Received: {_MAX_ATTEMPTS} workers that ended while they "
                "had it, as they do without memory. Take fewer workers, a smaller "
                "batch or smaller images; the same command goes on."
            )
        if self.model is None:
            self.model = load_model(*self.place)
        return list(zip(paths, labels, strict=True))

    def _embed_images(self, rows):
        """The embeddings of (path, label) rows, and the files that were left out."""
        skipped = []
        while True:
            ids, bad = self._look_at([path for path, _ in rows])
            skipped += bad
            rows = [row for row in rows if row[0] in ids]
            paths, labels = [path for path, _ in rows], [label for _, label in rows]
            try:
                vectors = self._vectors(paths)  # (B, D)
                break
            except (ValueError, OSError):
                # One that was damaged or deleted since costs nothing but itself.
                if not self._look_at(paths)[1]:
                    raise
        ids = [ids[path] for path in paths]
        return EmbeddingShard(ids, vectors, paths, labels), skipped

    def _look_at(self, paths):
        """The ids of the files that are images, and the others with the reasons."""
        paths = list(dict.fromkeys(paths))
        bad = dict(find_unreadable(paths, workers=self.threads))
        ids = hash_files([path for path in paths if path not in bad], self.threads)
        for path, found in ids.items():
            if isinstance(found, OSError):
                bad[path] = f"it cannot be opened: {found.strerror}"
        good = {path: found for path, found in ids.items() if path not in bad}
        return good, [SkippedImage(*item) for item in bad.items()]

    def _vectors(self, paths):
        if not paths:
            return np.zeros((0, self.units), np.float32)
        images = copy.copy(self.images)
        images.paths = paths
        embeddings = embed_at_scales(
            self.model,
            images,
            self.scales,
            batch_size=self.batch_size,
            workers=self.threads,
        )  # (S, B, D)
        return combine_scales(embeddings, power=self.power)


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
