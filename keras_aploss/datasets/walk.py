"""The images below a folder, and all that is left out there, by one walk.

Training, extraction and the index see the same images in a folder. What is left out is
named: a folder that may not be opened, a second link to one place, and what systems and
photo software keep beside the photos of a user. Their thumbnails are images of the same
scene as a photo, smaller: in a test set each finds its photo, and the metrics lie.

Hidden files and folders, whose names begin with a dot, are passed over: so are
`.thumbnails`, `.picasaoriginals`, `.dtrash`, `.Trash-1000` and `._a.jpg`.
"""

import os
from typing import NamedTuple

from keras_aploss.datasets.labels import compose
from keras_aploss.images import SkippedImage

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png")
# Images that are not decoded here: listed as skipped, so that nobody misses them.
_OTHER_EXTENSIONS = (
    *(".apng", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".tif", ".tiff"),
    *(".ico", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".webp"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)
# Folders that no person has made, in small letters. The first are those that Immich
# leaves out of a library by default, the others those of Plex.
_OF_SYSTEMS = {
    **dict.fromkeys(("@eadir", "@synoeastream", "@tmp"), "thumbnails of a Synology"),
    **dict.fromkeys(("#recycle", "@recycle", "$recycle.bin", "recycler"), "a bin"),
    **dict.fromkeys(("network trash folder", "temporary items"), "a bin of macOS"),
    **dict.fromkeys(("#snapshot", "@recently-snapshot"), "older copies of all files"),
    "__macosx": "attributes that macOS adds to archives",
    "lost+found": "pieces of files that a repair of the disk has found",
    "system volume information": "a folder of Windows itself",
}
# Libraries of photo software hold each photo several times, in sizes of their own.
_LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary", ".lrdata")


class ImagesBelow(NamedTuple):
    """What a walk has found.

    Attributes:
        paths: the images, of formats that are not read too, in sorted order.
        skipped: files and folders that were left out, with the reasons.
        unopened: those of them that could not be looked into: nothing is known of
            what they hold.
    """

    paths: list[str]
    skipped: list[SkippedImage]
    unopened: list[str]


def walk_images(root: str | os.PathLike, *, within: bool = False) -> ImagesBelow:
    """Find the images below a folder, at any depth.

    Links are followed, each place once: by the folder itself where it lies below the
    root, else by the first of its links. A link to a folder above the root is not.

    Args:
        root: the folder.
        within: leave out links to places that do not lie below the root.

    Raises:
        OSError: the root itself cannot be opened.

    Example:
    >>> import os, pathlib, tempfile
    >>> from keras_aploss.datasets import walk_images
    >>> folder = tempfile.TemporaryDirectory()
    >>> for name in ("crow/a.jpg", "crow/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg"):
    ...     path = pathlib.Path(folder.name, name)
    ...     path.parent.mkdir(parents=True)
    ...     path.touch()
    >>> found = walk_images(folder.name)
    >>> [os.path.relpath(path, folder.name) for path in found.paths]
    ['crow/a.jpg']
    >>> [reason for _, reason in found.skipped]
    ['it holds thumbnails of a Synology']
    """
    root = os.fspath(root)
    found, real_root = ImagesBelow([], [], []), os.path.realpath(root)
    folders, links, visited = [root], [], {}
    while folders or links:
        # Links come last: a folder is known by its own name if it has one here.
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if folder != root and (reason := _link_reason(real, real_root, within)):
            found.skipped.append(SkippedImage(folder, reason))
            continue
        if real in visited:
            # A link to what it lies in, in a circle, leaves nothing out.
            if not is_below(os.path.realpath(os.path.dirname(folder)) + os.sep, real):
                reason = f"it is a link to {visited[real]!r}, which is read already"
                found.skipped.append(SkippedImage(folder, reason))
            continue
        visited[real] = folder
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            _note_unopened(found, folder, error)
            continue
        below, linked = _sort_entries(entries, found, real_root if within else None)
        folders += reversed(below)
        links += linked
    return ImagesBelow(sorted(found.paths), found.skipped, found.unopened)


def _link_reason(real, real_root, within):
    """Why a folder, at its real place, is not followed, or None."""
    if is_below(real_root, real):
        return "it is a link to a folder above"
    if within and not is_below(real + os.sep, real_root):
        return "it is a link out of the folder"
    return None


def _sort_entries(entries, found, real_root):
    """Add the images of a folder to what is found; return its folders and links."""
    below, links = [], []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # a link that leads in a circle, or to a closed place
            _note_unopened(found, entry.path, error)
            continue
        if is_folder:
            if reason := litter_reason(entry.name):
                found.skipped.append(SkippedImage(entry.path, reason))
            else:
                (links if entry.is_symlink() else below).append(entry.path)
        elif is_image_name(entry.name):
            real = os.path.realpath(entry.path) if real_root else ""
            if real_root and not is_below(real, real_root):
                reason = "it is a link out of the folder"
                found.skipped.append(SkippedImage(entry.path, reason))
            else:
                found.paths.append(entry.path)
    return below, links


def _note_unopened(found, path, error):
    found.skipped.append(SkippedImage(path, f"it cannot be opened: {error.strerror}"))
    found.unopened.append(path)


def litter_reason(name: str) -> str | None:
    """Why a folder of this name holds no photos of a user, or None."""
    if name.lower().endswith(_LIBRARIES):
        return "it is a library of photo software; export its photos into a folder"
    what = _OF_SYSTEMS.get(name.lower())
    return f"it holds {what}" if what else None


def is_image_name(name: str) -> bool:
    """Whether a file that is not hidden has the extension of an image of any format."""
    return not name.startswith(".") and name.lower().endswith(
        EXTENSIONS + _OTHER_EXTENSIONS
    )


def is_below(path: str, folder: str) -> bool:
    """Whether a path lies in a folder, at any depth; by their names alone."""
    return path.startswith(os.path.join(folder, ""))


def label_in(root: str, path: str) -> str:
    """The label of an image: the sub-folder of the root, or nothing.

    Its letters are composed, as those of the labels in lists are.
    """
    first, _, rest = os.path.relpath(path, root).partition(os.sep)
    return compose(first) if rest else ""


def divide_by_format(rows):
    """Divide (path, class) rows into those of a format that is read, and the others."""
    read = [row for row in rows if row[0].lower().endswith(EXTENSIONS)]
    others = sorted({path for path, _ in rows} - {path for path, _ in read})
    reason = "its format, {}, is not read; convert it to JPEG or PNG"
    return read, [
        SkippedImage(path, reason.format(os.path.splitext(path)[1].lower()))
        for path in others
    ]
