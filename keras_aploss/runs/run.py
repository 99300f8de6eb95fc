"""A training run: from settings to an exported model."""

import dataclasses
import logging
import os
import pathlib
import shlex
from typing import NamedTuple

import keras

from keras_aploss.callbacks import RetrievalEvaluation, RetrievalTensorBoard, Throughput
from keras_aploss.embeddings import embed
from keras_aploss.evaluation import evaluate_embeddings
from keras_aploss.files import replaced_path
from keras_aploss.report import pixel_embeddings, write_evaluation
from keras_aploss.runs.card import read_evaluation
from keras_aploss.runs.checkpoint import (
    RunCheckpoint,
    encoder_of,
    load_model,
    read_before,
    read_history,
    steps_of,
)
from keras_aploss.runs.data import (
    BUILT_IN,
    list_skipped,
    read_run_data,
    warn_of_no_list,
)
from keras_aploss.runs.defaults import with_defaults
from keras_aploss.runs.devices import use_devices
from keras_aploss.runs.evaluation_set import EvaluationSet, data_name
from keras_aploss.runs.folder import check_folder, held_folder
from keras_aploss.runs.network import (
    build_encoder,
    compile_model,
    in_chunks,
    make_sampler,
    num_chunks_of,
)
from keras_aploss.runs.precision import use_precision
from keras_aploss.runs.settings import RunSettings
from keras_aploss.runs.split import SPLIT_FILE, read_split, write_split
from keras_aploss.runs.version import export_version

logger = logging.getLogger(__name__)


class RunReport(NamedTuple):
    """The result of a run.

    Attributes:
        folder: the run folder.
        metrics: rows of exact metrics on the test images by name: `"raw pixels"`,
            `"before training"`, `"after training"`.
        saved_model: folder of the exported version; None if it was not exported.
        interrupted: whether Ctrl-C ended the run; then there are no metrics, as on all
            but the first of several hosts.
        epochs: number of finished epochs.
        title: what the metrics are of: the test set, its queries and its classes, and
            how many of those were trained on.

    Example:
    >>> import pathlib
    >>> from keras_aploss.runs import RunReport
    >>> metrics = {"raw pixels": {"map": 0.11}, "after training": {"map": 0.87}}
    >>> report = RunReport(pathlib.Path("runs/one"), metrics, None, False, 12)
    >>> {name: row["map"] for name, row in report.metrics.items()}
    {'raw pixels': 0.11, 'after training': 0.87}
    """

    folder: pathlib.Path
    metrics: dict[str, dict[str, float]]
    saved_model: pathlib.Path | None
    interrupted: bool
    epochs: int
    title: str = ""


def train_run(
    settings: RunSettings,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    export_to: str | os.PathLike | None = "saved_models",
    verbose: int | str = "auto",
) -> RunReport:
    """Train a retrieval model, report on its test set and export it.

    With `strategy="data_parallel"` each of several hosts calls this with the same
    arguments. They train together; the first one writes, measures and exports.

    Ctrl-C ends the training; the report says so. Before the training has begun, while
    the images are read, it leaves no run folder and raises `KeyboardInterrupt`.

    Args:
        settings: what to train, and how.
        folder: the run folder; see the module.
        resume: resume the run in `folder` after its last finished epoch.
        export_to: folder of the exported models; None exports nothing.
        verbose: as for `keras.Model.fit`.

    Returns:
        A `RunReport`.

    Raises:
        ValueError: if the folder already holds a run (without `resume`), or none or
            one of other settings (with it), or the data cannot be trained on.
        BlockingIOError: if another job trains in the folder; an `OSError`.

    Example (as small as can be; the first command of the README trains in earnest):
    >>> import tempfile
    >>> from keras_aploss import RunSettings, train_run
    >>> settings = RunSettings(
    ...     num_landmarks=4, num_test_landmarks=3, views_per_landmark=4, image_size=16,
    ...     classes_per_batch=2, images_per_class=2, epochs=1,
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = train_run(settings, f"{folder}/run", export_to=None, verbose=0)
    >>> sorted(report.metrics)
    ['after training', 'before training', 'raw pixels']
    """
    folder = pathlib.Path(folder)
    with held_folder(folder, resume=resume):
        # On all hosts: none of them continues before all are there.
        settings = check_folder(folder, settings, resume=resume)
        try:
            with use_devices(settings.strategy) as devices:
                settings, data, checkpoint = _train(
                    settings, folder, devices, resume=resume, verbose=verbose
                )
            if devices.process > 0:  # the first process does what is left
                return RunReport(folder, {}, None, False, len(checkpoint.rows))
            return _finish(settings, data, checkpoint, export_to)
        except _InterruptedError as interrupted:
            return RunReport(folder, {}, None, True, interrupted.epochs)


class _InterruptedError(Exception):
    """Ctrl-C after the training had begun."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs


def _train(settings, folder, devices, *, resume, verbose):
    """Begin or resume a run; returns its settings, images and checkpoint."""
    keras.utils.set_random_seed(settings.seed)
    begun = resume and (folder / "last.keras").exists()
    # Before the images, which can take minutes to read: errors show at once.
    if begun:
        # `compile` takes from the policy that the optimizer scales the loss.
        with use_precision(settings.precision):
            model = load_model(folder / "last.keras", compile=True)
    else:
        model = build_encoder(settings)
        settings = with_defaults(settings, model)
        num_chunks = num_chunks_of(settings, model, devices)
        settings = dataclasses.replace(settings, num_chunks=num_chunks)
    data = _read_data(settings, folder, resume, int(verbose in (1, "auto")))
    sampler = make_sampler(settings, data.train, devices)
    if devices.process == 0:
        _begin_folder(folder, settings, data, resume)
    model = in_chunks(model, settings, sampler)
    if settings.num_chunks > 1 or devices.num_devices > 1:
        logger.info(
            "%s images of a batch in %d chunks, on %s.",
            f"{sampler.indices.batch_size:,}",
            settings.num_chunks,
            devices.names,
        )
    if not begun:
        compile_model(model, settings, len(sampler))
    checkpoint = _checkpoint(settings, folder, model, data, sampler, begun, devices)
    try:
        _fit(settings, checkpoint, model, data.test.class_names, verbose)
    except KeyboardInterrupt:
        raise _InterruptedError(len(checkpoint.rows)) from None
    return settings, data, checkpoint


def _read_data(settings, folder, resume, verbose):
    """The images of a new run, or those that a run began with."""
    path = folder / SPLIT_FILE
    if not resume or settings.data == BUILT_IN:
        return read_run_data(settings, verbose=verbose)
    if path.exists():
        return read_run_data(settings, read_split(path), verbose=verbose)
    warn_of_no_list(settings)
    return read_run_data(settings, verbose=verbose)._replace(listed=None, seen=None)


def _begin_folder(folder, settings, data, resume):
    """Write what is known before the training; the settings, which tell of a run, last.

    The list of the images stays as it was when the run began.
    """
    list_skipped(folder, data.skipped)
    if data.listed is not None and not resume:
        write_split(folder / SPLIT_FILE, data.listed)
    with replaced_path(folder / "settings.json") as new:
        settings.save(new)


def _finish(settings, data, checkpoint, export_to):
    """After the training, on one device: whitening, evaluation, export."""
    folder = checkpoint.folder
    try:
        model = encoder_of(load_model(folder / "last.keras"))
        if settings.whitening:
            _adapt_whitening(model, data.evaluation_crops, settings)
        # Not the best epoch: chosen on the test images, it would flatter the figures.
        with replaced_path(folder / "model.keras") as new:
            model.save(new)
        metrics, title = _report(checkpoint, model, data, settings)
        saved_model = None
        if export_to is not None and keras.backend.backend() == "tensorflow":
            path = pathlib.Path(export_to) / settings.model_name
            saved_model, _ = export_version(
                model,
                path,
                image_size=settings.image_size,
                settings=settings,
                evaluation=read_evaluation(folder),
                epochs=len(checkpoint.rows),
                split_file=None if data.listed is None else folder / SPLIT_FILE,
            )
    except KeyboardInterrupt:
        raise _InterruptedError(len(checkpoint.rows)) from None
    epochs = len(checkpoint.rows)
    return RunReport(folder, metrics, saved_model, False, epochs, title)


def _checkpoint(settings, folder, model, data, sampler, begun, devices):
    """Make the checkpoint with its evaluation, at the epoch of the model."""
    evaluation = RetrievalEvaluation(
        data.test.images,
        data.test.labels,
        queries=data.queries,
        evaluate_before=not begun,
        workers=settings.workers,
    )
    checkpoint = RunCheckpoint(folder, sampler, evaluation, writes=devices.process == 0)
    step = steps_of(model)
    checkpoint.rows = read_history(folder, step)
    # In float16, steps whose gradient overflows do not count.
    are_counted = settings.precision != "mixed_float16"
    if are_counted and step != len(checkpoint.rows) * len(sampler):
        logger.warning(
            "The training images are not those that the run began with: an epoch now "
            "has %d steps. The run is resumed with them.",
            len(sampler),
        )
    return checkpoint


def _fit(settings, checkpoint, model, class_names, verbose):
    """Train for the epochs that are left."""
    logs = checkpoint.folder / "tensorboard"
    evaluation, done = checkpoint.evaluation, len(checkpoint.rows)
    if done >= settings.epochs:
        return
    sampler = checkpoint.sampler
    callbacks = [evaluation, checkpoint]
    if checkpoint.writes:
        callbacks += [
            keras.callbacks.TensorBoard(logs, write_graph=False),
            RetrievalTensorBoard(logs, evaluation, class_names=class_names),
        ]
    model.fit(
        sampler,
        epochs=settings.epochs,
        initial_epoch=done,
        callbacks=[*callbacks, Throughput(sampler.indices.batch_size)],
        shuffle=False,
        verbose=verbose if checkpoint.writes else 0,
    )


def _adapt_whitening(model, images, settings):
    whitening = model.get_layer("whitening")
    unwhitened = keras.Model(model.input, whitening.input)
    whitening.adapt(embed(unwhitened, images, workers=settings.workers))


def _report(checkpoint, model, data, settings):
    """Metrics by row, and what they are of; writes the page and pictures of the run."""
    test, title = data.test, f"the test set of {data_name(settings.data)}"
    test_set = EvaluationSet(
        test, data.queries, title, data.seen, True, data.num_copies
    )
    folder, evaluation = checkpoint.folder, checkpoint.evaluation
    queries = evaluation.queries
    embeddings = pixel_embeddings(test.images)
    results = {"raw pixels": evaluate_embeddings(embeddings, test.labels, queries)}
    before = read_before(folder, evaluation)
    if before is not None:
        results["before training"] = before.result
    evaluation.set_model(model)
    after = evaluation.evaluate(len(checkpoint.rows) - 1)
    results["after training"] = after.result
    precision = after.result.average_precision
    facts = {
        "Model": str(folder / "model.keras"),
        "Data": settings.data,
        "Image size": settings.image_size,
        "Command": "keras-aploss train --config "
        + shlex.quote(str(folder / "settings.json")),
    }
    write_evaluation(
        folder / "evaluation", test, after, before=before, results=results,
        queries=queries, num_seen=test_set.num_seen(precision),
        history=checkpoint.rows, facts=facts, training=settings,
    )  # fmt: skip
    metrics = {name: result.metrics for name, result in results.items()}
    return metrics, test_set.heading(precision)
