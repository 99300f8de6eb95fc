"""The model that comes with the package: to search photographs before any training.

It is `saved_models/photos/1` of a clone. An installation copies that folder to
`share/keras_aploss` below its prefix (`[options.data_files]` in `setup.cfg`). A folder
of that name can also be a user's own: `keras-aploss train --data photos/` writes there.
So the model is looked for beside the package, never below the working directory, and
its files are those of its checksums, or it is refused.
"""

import hashlib
import importlib.metadata
import os
import pathlib

from keras_aploss.files import as_text

# What an index notes of the model, wherever it was installed. Another version of it has
# other embeddings, and so another name.
SHIPPED = "keras_aploss:photos/1"
ABOUT = "EfficientNet-Lite0 from ImageNet, trained with AP on photos of groceries"

_NAME, _VERSION = SHIPPED.partition(":")[2].split("/")
_INSTALLED = "share/keras_aploss/saved_models"
_ABOVE = pathlib.Path(__file__).parents[2]  # the clone, or `site-packages`


def shipped_model() -> pathlib.Path:
    """Find the model that comes with the package, for `open_model`.

    Returns:
        The folder of the version, `photos/1`, whose files have been checked.

    Raises:
        FileNotFoundError: it was not installed; the message says where it was looked
            for.
        ValueError: a file is missing or is not the one that comes with the package.

    Example:
    >>> from keras_aploss.runs import shipped_model
    >>> "/".join(shipped_model().parts[-2:])
    'photos/1'
    """
    places = [_ABOVE / "saved_models", _ABOVE / _INSTALLED, *_recorded()]
    for place in places:
        # Of a version that a user has trained there are no checksums.
        if (place / _NAME / "SHA256SUMS").is_file():
            _check(place / _NAME)
            return place / _NAME / _VERSION
    looked = ", ".join(repr(as_text(place / _NAME / _VERSION)) for place in places)
    raise FileNotFoundError(
        "Expected the model of photographs that comes with keras_aploss, "
        f"{_NAME}/{_VERSION}. Received: none in {looked}. Install the package again "
        "from a whole clone or a wheel (`pip install .`), or give `--model`."
    )


def is_shipped(path: str | os.PathLike) -> bool:
    """Whether a path leads to the model that comes with the package.

    Example:
    >>> from keras_aploss.runs import is_shipped
    >>> is_shipped("saved_models/synthetic_landmarks/1")
    False
    """
    try:
        return pathlib.Path(path).resolve() == shipped_model().resolve()
    except (OSError, ValueError):
        return False


def _recorded() -> list[pathlib.Path]:
    """Where the installer of the package says that it has put the models."""
    try:
        files = importlib.metadata.files("keras_aploss") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    end = f"{_INSTALLED}/{_NAME}/SHA256SUMS"
    found = [file.locate() for file in files if file.as_posix().endswith(end)]
    return [pathlib.Path(os.path.abspath(path)).parents[1] for path in found]


def _check(folder):
    """Compare the files of the version with the checksums beside it."""
    sums = folder / "SHA256SUMS"
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            raise ValueError(
                "Expected the files of the model that comes with keras_aploss, as "
                f"{as_text(sums)!r} lists them. Received: another {name!r}, or none. "
                "Install the package again; in a clone: `git checkout "
                f"saved_models/{_NAME}`."
            )


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
