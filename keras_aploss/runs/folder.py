"""The folder of a run: made for one run, and held by one job at a time.

Two jobs in one folder would mix their files: the settings of one beside the model of
the other. So a folder that is named by the time is made by one job alone, and whoever
trains in a folder holds its lock until its process ends, however it ends. To read a
folder no lock is needed: what a job writes there is whole or not there.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Iterator

from keras_aploss.files import locked
from keras_aploss.runs.devices import is_first_host, require_one_host
from keras_aploss.runs.settings import RunSettings

_LOCK = "lock"


def new_run_folder(
    settings: RunSettings, parent: str | os.PathLike = "runs"
) -> pathlib.Path:
    """Make the folder of a new run: `runs/`, the name of the model, the time.

    No other job gets the same: where the name is taken, a number is added.

    Args:
        settings: of the run; they tell the name of its model.
        parent: where to make the folder.

    Raises:
        ValueError: if several hosts train together, each of which would choose another.

    Example:
    >>> import tempfile
    >>> from keras_aploss import RunSettings
    >>> from keras_aploss.runs import new_run_folder
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = new_run_folder(RunSettings(data="photos/"), parent)
    ...     folder.is_dir(), folder.name.startswith("photos-20")
    (True, True)
    """
    require_one_host()
    name = f"{settings.model_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = pathlib.Path(parent, name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


@contextlib.contextmanager
def held_folder(folder: pathlib.Path, *, resume: bool) -> Iterator[None]:
    """Keep other jobs out of a run folder; a new one that stays empty is removed.

    Of several hosts the first one holds it, for all.

    Raises:
        BlockingIOError: another job trains in it; says which process, and where.
        OSError: it cannot be made or written.
    """
    if not is_first_host() or (resume and not folder.is_dir()):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK, f"the run {str(folder)!r}"):
            yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless there is something in it


def check_folder(
    folder: pathlib.Path, settings: RunSettings, *, resume: bool
) -> RunSettings:
    """Check that a new run has a new folder, and a resumed run the same settings.

    A folder is new as long as nothing was trained in it: a run that failed before does
    not refuse the same command.

    Returns:
        The settings, with the number of chunks that a resumed run began with.

    Raises:
        ValueError: if it is not so.
    """
    name, path = str(folder), folder / "settings.json"
    if not resume:
        trained = ("last.keras", "model.keras", "history.csv")
        is_begun = any((folder / file).exists() for file in trained)
        if is_begun or (path.exists() and not _is_same(path, settings)):
            raise ValueError(
                f"Expected a new run folder. Received: {name!r}, which holds a "
                "finished or unfinished run. Choose another, or resume that run."
            )
        return settings
    if not path.exists():
        raise ValueError(
            f"Expected a run to resume. Received: {name!r}, which holds no "
            "`settings.json`. Check its name."
        )
    if changes := _changes(path, settings):
        raise ValueError(
            f"Expected the settings of the run to resume, {name!r}. Received: "
            f"{', '.join(changes)}. Begin a new run for other settings."
        )
    if settings.num_chunks:
        return settings
    return dataclasses.replace(settings, num_chunks=RunSettings.load(path).num_chunks)


def _is_same(path, settings):
    try:
        return not _changes(path, settings)
    except ValueError:  # a file of something else
        return False


def _changes(path, settings):
    """How settings differ from those in a file, of which the run chose the chunks."""
    saved = dataclasses.asdict(RunSettings.load(path))
    given = dataclasses.asdict(settings)
    if settings.num_chunks == 0:
        given["num_chunks"] = saved["num_chunks"]
    return [
        f"{field}={value!r} instead of {saved[field]!r}"
        for field, value in given.items()
        if value != saved[field]
    ]
