"""Hashes of the contents of image files: their ids in an index and in shards.

A file that is moved or copied keeps its hash, and so its embedding.
"""

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import keras


def hash_files(paths, workers: int, verbose: int = 0) -> dict[str, str | OSError]:
    """The id of each file, which is a hash of its bytes, or why it cannot be read."""
    progress = keras.utils.Progbar(len(paths), verbose=verbose, unit_name="file")
    with ThreadPoolExecutor(workers) as pool:
        hashes = {}
        for path, found in zip(paths, pool.map(_hash, paths), strict=True):
            hashes[path] = found
            progress.update(len(hashes))
    return hashes


def new_digest():
    """The hash that an image is known by, of no bytes yet; 32 hexadecimal digits."""
    return hashlib.blake2b(digest_size=16)


def _hash(path):
    digest = new_digest()
    try:
        # What is no file is not read, but left to `find_unreadable`: a pipe would be
        # waited for without end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        return error
    return digest.hexdigest()
