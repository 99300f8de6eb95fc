"""The images that a trained model is evaluated on, and what is known of their classes.

A retrieval model is judged on classes that it has never seen. Whether it has not is
known of the images of its run, by the list in `split.csv`, and of other images as far
as their files were trained on.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.files import as_text
from keras_aploss.images import ImageFiles, find_duplicates
from keras_aploss.report import describe_classes
from keras_aploss.runs import split as run_split
from keras_aploss.runs.data import (
    BUILT_IN,
    check_test_set,
    choose_test_set,
    read_image_sets,
    split_sets,
    warn_of_no_list,
)
from keras_aploss.runs.duplicates import leave_out_copies
from keras_aploss.runs.trained import TrainedModel


class EvaluationSet(NamedTuple):
    """Images to evaluate a model on.

    Attributes:
        images: the images.
        queries: numbers of those that are queries; None: all (leave-one-out).
        title: what they are, such as "the test set of photos".
        seen: the labels of classes that the model was trained on; None: not known.
        is_own: whether they are of the data of its run. Of other data it is only known
            which images were trained on.
        num_copies: how many images were left out as copies of others.
    """

    images: ImageSet
    queries: np.ndarray | None
    title: str
    seen: frozenset[int] | None
    is_own: bool
    num_copies: int = 0

    def num_seen(self, precision: np.ndarray) -> int | None:
        """How many of the classes that have a query were trained on, if it is known.

        Args:
            precision: the average precision of each image; NaN: it is no query.
        """
        if self.seen is None:
            return None
        count = len(self.seen & _queried(self.images.labels, precision))
        return count if count or self.is_own else None

    def heading(self, precision: np.ndarray) -> str:
        """Name the set, and count its queries and classes.

        Args:
            precision: the average precision of each image; NaN: it is no query.
        """
        num_classes = len(_queried(self.images.labels, precision))
        num_seen = self.num_seen(precision)
        classes = describe_classes(num_classes, num_seen)
        if self.seen is None:
            classes += "; whether the model was trained on them is not known"
        elif num_seen is None:
            classes += ", with no image of the training"
        count = int(np.isfinite(precision).sum())
        copies = "copy" if self.num_copies == 1 else "copies"
        left_out = f"; {self.num_copies:,} {copies} left out" * bool(self.num_copies)
        return f"{self.title}: {count:,} queries of {classes}{left_out}"


def _queried(labels: np.ndarray, precision: np.ndarray) -> set[int]:
    return set(labels[np.isfinite(precision)].tolist())


def data_name(data: str) -> str:
    """The last part of the path of a data set, which can be shown anywhere."""
    return as_text(data if data == BUILT_IN else pathlib.Path(data).resolve().name)


def read_evaluation_set(
    trained: TrainedModel,
    data: str | None = None,
    split: str | None = None,
    *,
    keep_duplicates: bool | None = None,
    verbose: int = 0,
) -> EvaluationSet:
    """Read the images to evaluate a trained model on.

    Copies of one file are left out, see `duplicates`. Of those of training images it is
    so in the test set of the run alone; in other data, `seen` tells of their classes.

    Args:
        trained: the model, as `open_model` returns it.
        data: another data set, as `RunSettings.data`; None: that of the run. If it is
            that of the run, wherever it lies now, its test set is taken, as it was
            when the run began.
        split: the split to evaluate; None: the test set, see `choose_test_set`.
        keep_duplicates: keep copies; None: as in the run.
        verbose: 1 shows progress bars.

    Raises:
        ValueError: if there is no such data set or split, or no query in it has a
            relevant image.
    """
    name_of = _name_data(trained, data)
    settings = dataclasses.replace(trained.settings, data=name_of)
    if keep_duplicates is not None:
        settings = dataclasses.replace(settings, keep_duplicates=keep_duplicates)
    sets = read_image_sets(settings, verbose=verbose)
    known = _compare(trained, data, settings, sets, verbose)
    name = data_name(settings.data)
    if split:
        if split not in sets:
            raise ValueError(
                f"Expected one of the splits {sorted(sets)}. Received: {split!r}."
            )
        title = f"the split {split} of {name}"
        chosen = EvaluationSet(sets[split], None, title, known.seen, known.is_own)
    elif known.is_own and known.listed:
        chosen = _listed_test_set(known, settings, sets, name)
    elif known.is_own and set(sets) == {"all"}:
        # The run was trained on the other classes, as far as one can tell.
        _, images, queries = split_sets(sets, settings)
        title = f"a test set of {name}"
        chosen = EvaluationSet(images, queries, title, None, True)
    else:
        found = choose_test_set(sets)
        if found is None:
            raise ValueError(
                "Expected a split named test, or query and gallery. Received: "
                f"{sorted(sets)} in data={settings.data!r}. Choose one with `--split`."
            )
        title = f"all of {name}" if "all" in sets else f"the test set of {name}"
        chosen = EvaluationSet(*found, title, known.seen, known.is_own)
    if isinstance(chosen.images.images, ImageFiles):
        is_unseen = known.is_own and split not in ("train", "all")
        listed = _list_of_run(known, sets, settings, chosen) if is_unseen else []
        chosen = _without_copies(chosen, known, listed, settings, verbose)
    check_test_set(chosen.images, chosen.queries, chosen.num_copies)
    return chosen


def _list_of_run(known, sets, settings, chosen):
    """The images of a run, as it has listed them, or as far as one can tell."""
    if known.listed is not None:
        return known.listed
    is_split = set(sets) != {"all"}
    train = sets.get("train") if is_split else split_sets(sets, settings)[0]
    if train is None:
        return []
    return run_split.list_images(train, chosen.images, None, known.root)


def _without_copies(chosen, known, listed, settings, verbose):
    """The set without copies of its own files, and of the training files of a list."""
    hashes = known.hashes or run_split.listed_hashes(listed, known.root)
    if not hashes:
        hashes = find_duplicates(chosen.images.images.paths, verbose=verbose)
    images, queries, num_copies = leave_out_copies(
        chosen.images,
        chosen.queries,
        hashes,
        [row for row in listed if row.split == "train"],
        known.root,
        keep=settings.keep_duplicates,
    )
    return chosen._replace(images=images, queries=queries, num_copies=num_copies)


def _name_data(trained, data):
    """The data set to read."""
    own = trained.settings.data
    if data is None and trained.is_exported and own != BUILT_IN:
        raise ValueError(
            "Expected `--data`: an exported model knows the name of the data that it "
            f"was trained on, {own!r}, but not where they are."
        )
    return own if data is None else data


class _Known(NamedTuple):
    """What the list of a run tells of some data."""

    listed: list[run_split.ListedImage] | None
    root: str
    hashes: dict[str, str]
    is_own: bool
    seen: frozenset[int] | None


def _compare(trained, data, settings, sets, verbose):
    root = run_split.data_root(settings.data)
    is_own = data is None or _same_path(data, trained.settings.data)
    if settings.data == BUILT_IN:
        is_own = trained.run is not None and is_own
        seen = frozenset(sets["train"].labels.tolist()) if is_own else None
        return _Known(None, root, {}, is_own, seen)
    is_own = is_own and not trained.is_exported
    if trained.split_file is None:
        if is_own and trained.run is not None:
            warn_of_no_list(trained.run)
        return _Known(None, root, {}, is_own, None)
    listed = run_split.read_split(trained.split_file)
    hashes = run_split.hash_sets(sets, verbose=verbose)
    is_own = is_own or run_split.is_data_of(listed, root, hashes)
    seen = run_split.trained_labels(listed, sets, root if is_own else None, hashes)
    return _Known(listed, root, hashes, is_own, seen)


def _listed_test_set(known, settings, sets, name):
    listed, root, hashes, *_ = known
    changes = run_split.find_changes(listed, sets, root, hashes)
    run_split.log_changes(changes, listed, sets)
    size = settings.image_size
    _, images, queries = run_split.listed_sets(listed, sets, root, size)
    seen = frozenset(row.label for row in listed if row.split == "train")
    return EvaluationSet(images, queries, f"the test set of {name}", seen, True)


def _same_path(path, other):
    return pathlib.Path(path).resolve() == pathlib.Path(other).resolve()
