"""Find the image files that are there more than once: equal in each byte.

A copy of a query in the database is its nearest neighbour whatever the model is: with
each image there twice, raw pixels find a relevant image first. Pictures that look the
same, but were compressed or scaled again, are other files and not found here.
"""

import os
from collections import Counter

from keras_aploss.images.arguments import as_list
from keras_aploss.images.hashes import hash_files


def find_duplicates(
    paths, *, workers: int | None = None, verbose: int = 0
) -> dict[str, str]:
    """Find the files that have the contents of another one.

    Only files whose size another file has, too, are read: of a folder of photos few.

    Args:
        paths: the files. One that is given twice is one file.
        workers: threads; by default one per processor.
        verbose: 1 shows a progress bar.

    Returns:
        The hash of the contents, see `hash_files`, of each file that is no single one,
        by its path, in the order of `paths`: copies of each other have one hash. Files
        that cannot be read, and what is no file, are no copies.

    Example:
        >>> import pathlib, tempfile
        >>> from keras_aploss.images import find_duplicates
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [pathlib.Path(folder, name) for name in "abc"]
        ...     for path, text in zip(paths, ["one", "one", "two"]):
        ...         _ = path.write_text(text)
        ...     found = find_duplicates(paths)
        >>> [pathlib.Path(path).name for path in found], len(set(found.values()))
        (['a', 'b'], 1)
    """
    sizes = {path: _size(path) for path in as_list(paths)}
    counts = Counter(sizes.values())
    candidates = [
        path for path, size in sizes.items() if size is not None and counts[size] > 1
    ]
    hashes = hash_files(candidates, workers or os.cpu_count() or 1, verbose)
    # An empty text stands for what is no file.
    read = {path: h for path, h in hashes.items() if isinstance(h, str) and h}
    counts = Counter(read.values())
    return {path: found for path, found in read.items() if counts[found] > 1}


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return None
