"""The model, in the folder of the shards, from which the workers load it.

A path that the user gave may exist on one machine only; the folder of the shards is
seen by all of them, since they write there.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import keras


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
            copy = os.path.join(place, f"saved_model_{number}")
            shutil.copytree(layer.filepath, copy)
            layer.filepath = copy
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
            "one. Is the folder the same on all machines? Run the same command again."
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
