"""A training run: from settings to an exported model."""

import contextlib
import dataclasses
import logging
import os
import pathlib
from typing import NamedTuple

import keras
import numpy as np

from keras_aploss.callbacks import (
    RetrievalEvaluation,
    RetrievalTensorBoard,
    evaluate_embeddings,
)
from keras_aploss.data import Augmentation
from keras_aploss.evaluation import embed
from keras_aploss.export import export_saved_model
from keras_aploss.layers import PCAWhitening
from keras_aploss.losses import APLoss
from keras_aploss.models import retrieval_model
from keras_aploss.runs.checkpoint import (
    RunCheckpoint,
    load_model,
    read_before,
    read_history,
    replace,
)
from keras_aploss.runs.images import read_run_data, write_skipped
from keras_aploss.runs.reports import (
    pixel_embeddings,
    write_curves,
    write_evaluation,
)
from keras_aploss.runs.settings import RunSettings
from keras_aploss.samplers import ClassBalancedSampler

logger = logging.getLogger(__name__)


class RunReport(NamedTuple):
    """What a run ends with.

    Attributes:
        folder: the run folder.
        metrics: rows of exact metrics on the test images by name: `"raw pixels"`,
            `"before training"`, `"after training"`.
        saved_model: folder of the exported version; None if it was not exported.
        interrupted: whether Ctrl-C ended the run; then there are no metrics.
        epochs: number of finished epochs.

    Example:
    >>> import pathlib
    >>> from keras_aploss import RunReport
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


def train_run(
    settings: RunSettings,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    export_to: str | os.PathLike | None = "saved_models",
    verbose: int | str = "auto",
) -> RunReport:
    """Train a retrieval model, report on unseen classes and export it.

    Ctrl-C ends the training; the report says so. Before the training has begun, while
    the images are read, it leaves no run folder and raises `KeyboardInterrupt`.

    Args:
        settings: what to train, and how.
        folder: the run folder; see the module.
        resume: go on with the run in `folder`, from its last finished epoch.
        export_to: folder of the exported models; None exports nothing.
        verbose: as for `keras.Model.fit`.

    Returns:
        A `RunReport`.

    Raises:
        ValueError: if the folder already holds a run (without `resume`), or none or
            one of other settings (with it), or the data cannot be trained on.

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
    _check_folder(folder, settings, resume)
    keras.utils.set_random_seed(settings.seed)
    augment = _augmentation(settings) if settings.augment else None
    begun = (folder / "last.keras").exists()
    # Before the images, which can take minutes to read: what is wrong shows at once.
    model = (
        load_model(folder / "last.keras", compile=True) if begun else _model(settings)
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = read_run_data(settings, verbose=int(verbose in (1, "auto")))
        sampler = _sampler(settings, data.train, augment)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless there is something in it
        raise
    if not resume:
        replace(folder / "settings.json", settings.save)
    write_skipped(folder, data.skipped)
    if not begun:
        _compile(model, settings, len(sampler))
    checkpoint = _checkpoint(settings, folder, model, data, sampler)
    try:
        _fit(settings, checkpoint, model, data.test.class_names, verbose)
        model = load_model(folder / "last.keras")
        if settings.whitening:
            _adapt_whitening(model, data.squares, settings)
        # Not the best epoch: chosen on the test images, it would flatter the figures.
        replace(folder / "model.keras", model.save)
        metrics = _report(checkpoint, model, data.test)
        saved_model = None
        if export_to is not None and keras.backend.backend() == "tensorflow":
            path = pathlib.Path(export_to) / settings.model_name
            size = settings.image_size
            saved_model = export_saved_model(model, path, image_size=size)
    except KeyboardInterrupt:
        return RunReport(folder, {}, None, True, len(checkpoint.rows))
    return RunReport(folder, metrics, saved_model, False, len(checkpoint.rows))


def _check_folder(folder, settings, resume):
    """A new run needs a folder without a run, a resumed one that very run."""
    name = str(folder)
    if not resume:
        if (folder / "settings.json").exists() or (folder / "last.keras").exists():
            raise ValueError(
                f"Expected a new run folder. Received: {name!r}, which holds a "
                "finished or unfinished run. Choose another, or resume that run."
            )
        return
    if not (folder / "settings.json").exists():
        raise ValueError(
            f"Expected a run to resume. Received: {name!r}, which holds no "
            "`settings.json`. Check its name."
        )
    saved = dataclasses.asdict(RunSettings.load(folder / "settings.json"))
    changed = [
        f"{field}={value!r} instead of {saved[field]!r}"
        for field, value in dataclasses.asdict(settings).items()
        if value != saved[field]
    ]
    if changed:
        raise ValueError(
            f"Expected the settings of the run to resume, {name!r}. Received: "
            f"{', '.join(changed)}. Begin a new run for other settings."
        )


def _augmentation(settings):
    jitter = settings.colour_jitter
    return Augmentation(
        settings.image_size,
        scale=(settings.crop_scale, 1.0),
        rotation=settings.rotation,
        flip=settings.flip,
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
    )


def _sampler(settings, train, augment):
    num_classes = len(np.unique(train.labels[train.labels >= 0]))
    if num_classes < settings.classes_per_batch:
        logger.warning(
            "There are %d training classes: batches hold all of them instead of "
            "classes_per_batch=%d.",
            num_classes,
            settings.classes_per_batch,
        )
    return ClassBalancedSampler(
        train.images,
        train.labels,
        classes_per_batch=min(settings.classes_per_batch, num_classes),
        images_per_class=settings.images_per_class,
        steps_per_epoch=settings.steps_per_epoch or None,
        augment=augment,
        seed=settings.seed,
        workers=settings.workers,
    )


def _model(settings):
    whitening = settings.whitening and PCAWhitening(
        power=settings.whitening_power, name="whitening"
    )
    weights = settings.weights
    if weights not in ("", "imagenet") and not pathlib.Path(weights).is_file():
        raise ValueError(
            "Expected `weights` to be '', 'imagenet' or a file. Received: "
            f"weights={weights!r}, which is not a file. Check its spelling."
        )
    try:
        return retrieval_model(
            settings.backbone,
            settings.units,
            pooling=settings.pooling,
            whitening=whitening,
            weights=weights or None,
        )
    # A failed download raises a bare Exception, a wrong file OSError or ValueError.
    except Exception as error:
        if not weights:
            raise
        raise ValueError(
            "Expected `weights` that can be fetched and fit the backbone. Received: "
            f"weights={weights!r}, backbone={settings.backbone!r}: {error}. Give "
            "another file, or '' for random weights."
        ) from error


def _compile(model, settings, steps_per_epoch):
    steps = settings.epochs * steps_per_epoch
    learning_rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 10,
        decay_steps=max(1, steps - steps // 10),
        warmup_target=settings.learning_rate,
        warmup_steps=steps // 10,
    )
    optimizer = keras.optimizers.AdamW(
        learning_rate, weight_decay=settings.weight_decay
    )
    loss = APLoss(settings.num_bins, exclude_self=settings.exclude_self)
    model.compile(optimizer, loss)


def _checkpoint(settings, folder, model, data, sampler):
    """The checkpoint with its evaluation, at the epoch that the model has reached."""
    evaluation = RetrievalEvaluation(
        data.test.images,
        data.test.labels,
        queries=data.queries,
        evaluate_before=not (folder / "last.keras").exists(),
        workers=settings.workers,
    )
    checkpoint = RunCheckpoint(folder, sampler, evaluation)
    step = int(model.optimizer.iterations)
    checkpoint.rows = read_history(folder, step)
    if step != len(checkpoint.rows) * len(sampler):
        logger.warning(
            "The training images are not those that the run began with: an epoch has "
            "%d steps now. The run goes on with them.",
            len(sampler),
        )
    return checkpoint


def _fit(settings, checkpoint, model, class_names, verbose):
    """Train for the epochs that are left."""
    logs = checkpoint.folder / "tensorboard"
    evaluation, done = checkpoint.evaluation, len(checkpoint.rows)
    if done >= settings.epochs:
        return
    model.fit(
        checkpoint.sampler,
        epochs=settings.epochs,
        initial_epoch=done,
        callbacks=[
            evaluation,
            checkpoint,
            keras.callbacks.TensorBoard(logs, write_graph=False),
            RetrievalTensorBoard(logs, evaluation, class_names=class_names),
        ],
        shuffle=False,
        verbose=verbose,
    )


def _adapt_whitening(model, images, settings):
    whitening = model.get_layer("whitening")
    unwhitened = keras.Model(model.input, whitening.input)
    whitening.adapt(embed(unwhitened, images, workers=settings.workers))


def _report(checkpoint, model, test):
    """Metrics by row, and the pictures of the run."""
    folder, evaluation = checkpoint.folder, checkpoint.evaluation
    queries = evaluation.queries
    pixels = evaluate_embeddings(pixel_embeddings(test.images), test.labels, queries)
    rows = {"raw pixels": pixels.metrics}
    before = read_before(folder, evaluation)
    if before is not None:
        rows["before training"] = before.result.metrics
    evaluation.set_model(model)
    after = evaluation.evaluate(len(checkpoint.rows) - 1)
    rows["after training"] = after.result.metrics
    write_evaluation(
        folder / "evaluation", test, after, before=before, metrics=rows, queries=queries
    )
    write_curves(folder, checkpoint.rows)
    return rows
