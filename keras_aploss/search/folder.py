"""An index that follows a folder: only what changed is embedded.

Each image is known by its path, and its content by a hash of its bytes. A file whose
path and hash are in the index is passed over. One whose hash is there under another
path was moved or copied: it gets the same embedding. All others are embedded, some
hundred at a time, and each such batch is in the index before the next is read: a kill
costs one batch. What is gone from the folder leaves the index at the end, when all that
is new is in.

What cannot be read is never taken for gone: a folder that may not be opened, or a file,
keeps what was indexed of it.

Dimension key: N images, B images per batch, D units.
"""

import logging
import os
from typing import NamedTuple

import keras

from keras_aploss.datasets import divide_by_format, is_below, label_in, walk_images
from keras_aploss.embeddings import check_image_size, embed
from keras_aploss.images import (
    ImageFiles,
    SkippedImage,
    find_unreadable,
    hash_files,
)
from keras_aploss.search.vector_index import VectorIndex

_AT_RISK = 256  # images that are embedded again after a kill
_LINES = 20  # of skipped files in the log

_logger = logging.getLogger(__name__)


class IndexReport(NamedTuple):
    """The result of `index_folder`: numbers of images, and the files left out.

    Example:
    >>> from keras_aploss.search import IndexReport
    >>> IndexReport(embedded=3, moved=1, unchanged=20, deleted=1, skipped=[]).embedded
    3
    """

    embedded: int
    moved: int
    unchanged: int
    deleted: int
    skipped: list[SkippedImage]


def index_folder(
    index: VectorIndex,
    model: keras.Model,
    folder: str | os.PathLike,
    *,
    image_size: int,
    batch_size: int = 16,
    workers: int | None = None,
    verbose: int = 0,
) -> IndexReport:
    """Bring an index up to date with the images below a folder.

    The label of an image is the name of the sub-folder of `folder` that it lies in, at
    any depth; without one it is empty. Paths are absolute, so that one index may hold
    several folders: images of others stay as they are. Hidden files are ignored. Links
    are followed, but not out of the folder.

    Args:
        index: of the same model, see `model_fingerprint`.
        model: maps `(B, image_size, image_size, 3)` images to `(B, D)` embeddings of
            unit length.
        folder: the folder.
        image_size: side of the square crops that are embedded.
        batch_size: images per call of the model.
        workers: threads that read; by default one per processor.
        verbose: 1 shows progress bars.

    Returns:
        An `IndexReport`. What was skipped is also logged, as warnings.

    Raises:
        ValueError: if the folder does not exist or holds no image (nothing is deleted),
            the model does not fit the index, or it is built for another image size.
        OSError: if the index cannot be written. What was written stays; the same call
            goes on from there.

    Example:
    >>> import pathlib, tempfile, PIL.Image
    >>> from keras_aploss import VectorIndex, index_folder, retrieval_model
    >>> model = retrieval_model("small_resnet", units=8)
    >>> folder = tempfile.TemporaryDirectory()
    >>> crows = pathlib.Path(folder.name, "crows")
    >>> crows.mkdir()
    >>> PIL.Image.new("RGB", (40, 40), "black").save(crows / "a.png")
    >>> index = VectorIndex(units=8)
    >>> index_folder(index, model, folder.name, image_size=32)[:4]
    (1, 0, 0, 0)
    >>> _ = (crows / "a.png").rename(crows / "b.png")
    >>> index_folder(index, model, folder.name, image_size=32)[:4]
    (0, 1, 0, 1)
    >>> index.images()[0].label
    'crows'
    >>> folder.cleanup()
    """
    check_image_size(model, image_size)
    root = os.path.abspath(folder)
    workers = workers or os.cpu_count() or 1
    hashes, skipped, unseen = _look_through(root, workers, verbose)
    there = {image.path: image for image in index.images()}
    new = {p: h for p, h in hashes.items() if p not in there or there[p].id != h}
    label_of = {path: label_in(root, path) for path in new}
    holders = {image.id: image.path for image in there.values()}
    moved = {path: holders[h] for path, h in new.items() if h in holders}
    _copy_vectors(index, moved, new, label_of)
    fresh: dict[str, list[str]] = {}
    for path, hash_ in new.items():
        if path not in moved:
            fresh.setdefault(hash_, []).append(path)

    def embed_files(paths):
        files = ImageFiles(paths, image_size)
        return embed(model, files, batch_size=batch_size, workers=workers)

    bad = _embed_fresh(index, embed_files, fresh, label_of, workers, verbose)
    skipped += bad

    kept = set(hashes) - {path for path, _ in bad}
    gone = [
        path
        for path in there
        if is_below(path, root)
        and path not in kept
        and not any(path == other or is_below(path, other) for other in unseen)
    ]
    index.delete(gone)
    index.flush()
    _log(skipped)
    return IndexReport(
        embedded=len(new) - len(moved) - len(bad),
        moved=len(moved),
        unchanged=len(hashes) - len(new),
        deleted=len(gone),
        skipped=sorted(skipped),
    )


def _look_through(root, workers, verbose):
    """The hashes of images below a folder, files left out, and places not to be read.

    From a place that may not be read nothing may be taken for gone.
    """
    if not os.path.isdir(root):
        raise ValueError(
            f"Expected a folder of images. Received: {root!r}, which is none. Check "
            "its spelling."
        )
    paths, skipped, unseen = walk_images(root, within=True)
    reason = "its name is not UTF-8; rename it"
    skipped += [SkippedImage(path, reason) for path in paths if not _is_text(path)]
    rows, others = divide_by_format([(path, "") for path in paths if _is_text(path)])
    if not rows:
        advice = "".join(
            f" Left out: {path!r}: {reason}." for path, reason in (others + skipped)[:1]
        )
        raise ValueError(
            f"Expected a folder with images. Received: {root!r}, which has none. "
            f"Nothing was deleted from the index.{advice}"
        )
    hashes = {}
    found = hash_files([path for path, _ in rows], workers, verbose)
    for path, hash_ in found.items():
        if not isinstance(hash_, OSError):
            hashes[path] = hash_
            continue
        skipped.append(_unopened(hash_))
        if not isinstance(hash_, FileNotFoundError):
            unseen.append(path)
    return hashes, skipped + others, unseen


def _is_text(path):
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unopened(error):
    return SkippedImage(error.filename, f"it cannot be opened: {error.strerror}")


def _copy_vectors(index, moved, new, label_of):
    """Give moved and copied images the vector that their content has already.

    Args:
        index: the index.
        moved: to each of them a path that the index knows the content by.
        new: the hash of each.
        label_of: the label of each.
    """
    # Where files changed places, a vector is overwritten before it is asked for.
    overwritten = index.get([path for path in set(moved.values()) if path in new])
    paths = list(moved)
    for start in range(0, len(paths), _AT_RISK):
        some = paths[start : start + _AT_RISK]
        found = index.get([moved[path] for path in some]) | overwritten
        index.add(
            [new[path] for path in some],
            [found[moved[path]][1] for path in some],
            some,
            [label_of[path] for path in some],
        )


def _embed_fresh(index, embed_files, fresh, label_of, workers, verbose):
    """Embed each new content once, and add the images that have it.

    Args:
        index: the index.
        embed_files: gives the `(B, D)` embeddings of B paths.
        fresh: the paths of each hash.
        label_of: the label of each path.
        workers: threads that read.
        verbose: 1 shows a progress bar.

    Returns:
        The files that are no readable images.
    """
    progress = keras.utils.Progbar(len(fresh), verbose=verbose, unit_name="image")
    bad, hashes = [], list(fresh)
    for start in range(0, len(hashes), _AT_RISK):
        some = hashes[start : start + _AT_RISK]
        first = [fresh[hash_][0] for hash_ in some]
        reasons = dict(find_unreadable(first, workers=workers))
        bad += [
            SkippedImage(path, reasons[fresh[hash_][0]])
            for hash_ in some
            if fresh[hash_][0] in reasons
            for path in fresh[hash_]
        ]
        some = [hash_ for hash_ in some if fresh[hash_][0] not in reasons]
        if some:
            vectors = embed_files([fresh[hash_][0] for hash_ in some])
            rows = [
                (hash_, vector, path, label_of[path])
                for hash_, vector in zip(some, vectors, strict=True)
                for path in fresh[hash_]
            ]
            index.add(*zip(*rows, strict=True))
        progress.update(min(start + _AT_RISK, len(hashes)))
    return bad


def _log(skipped):
    for path, reason in sorted(skipped)[:_LINES]:
        _logger.warning("Left out %r: %s.", path, reason)
    if len(skipped) > _LINES:
        _logger.warning("And %d more files were left out.", len(skipped) - _LINES)
