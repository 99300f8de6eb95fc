"""A training run: from settings to an exported model."""

import logging
import os
import pathlib
from typing import NamedTuple

import keras
import numpy as np

from keras_aploss.callbacks import (
    RetrievalEvaluation,
    RetrievalTensorBoard,
    Snapshot,
    evaluate_embeddings,
)
from keras_aploss.data import Augmentation
from keras_aploss.evaluation import embed
from keras_aploss.export import export_saved_model
from keras_aploss.layers import PCAWhitening
from keras_aploss.losses import APLoss
from keras_aploss.models import retrieval_model
from keras_aploss.runs.checkpoint import RunCheckpoint, read_history, replace
from keras_aploss.runs.images import read_run_data
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
        interrupted: whether Ctrl-C ended the training; then there are no metrics.
    """

    folder: pathlib.Path
    metrics: dict[str, dict[str, float]]
    saved_model: pathlib.Path | None
    interrupted: bool


def train_run(
    settings: RunSettings,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    export_to: str | os.PathLike | None = "saved_models",
    verbose: int | str = "auto",
) -> RunReport:
    """Train a retrieval model, report on unseen classes and export the best one.

    Args:
        settings: what to train, and how.
        folder: the run folder; see the module.
        resume: go on with the run in `folder`, from its last finished epoch.
        export_to: folder of the exported models; None exports nothing.
        verbose: as for `keras.Model.fit`.

    Returns:
        A `RunReport`.

    Raises:
        ValueError: if the folder already holds a run (without `resume`) or none (with
            it), or the data cannot be trained on.

    Example (a minute; the first command of the README does the same with defaults):
    >>> from keras_aploss import RunSettings, train_run
    >>> report = train_run(RunSettings(epochs=2), "runs/short")  # doctest: +SKIP
    >>> report.metrics["after training"]["map"]  # doctest: +SKIP
    0.38
    """
    folder = pathlib.Path(folder)
    if (folder / "last.keras").exists() != resume:
        wanted = "no `last.keras`" if resume else "a finished or unfinished run"
        raise ValueError(
            f"Expected {'a run to resume' if resume else 'a new run folder'}. Received:"
            f" {str(folder)!r}, which holds {wanted}. "
            + ("Check its name." if resume else "Choose another, or resume that run.")
        )
    folder.mkdir(parents=True, exist_ok=True)
    settings.save(folder / "settings.json")
    keras.utils.set_random_seed(settings.seed)
    data = read_run_data(settings, folder, verbose=int(verbose != 0))
    sampler = _sampler(settings, data.train)
    evaluation = RetrievalEvaluation(
        data.test.images,
        data.test.labels,
        queries=data.queries,
        evaluate_before=not resume,
        workers=settings.workers,
    )
    if resume:
        model = keras.saving.load_model(folder / "last.keras")
    else:
        model = _model(settings, len(sampler))
    checkpoint = RunCheckpoint(folder, sampler, evaluation)
    done = int(model.optimizer.iterations) // len(sampler)
    checkpoint.rows = read_history(folder)[:done]
    callbacks = [
        evaluation,
        checkpoint,
        keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        RetrievalTensorBoard(
            folder / "tensorboard", evaluation, class_names=data.test.class_names
        ),
    ]
    try:
        if done < settings.epochs:
            model.fit(
                sampler,
                epochs=settings.epochs,
                initial_epoch=done,
                callbacks=callbacks,
                shuffle=False,
                verbose=verbose,
            )
    except KeyboardInterrupt:
        return RunReport(folder, {}, None, True)
    model = keras.saving.load_model(folder / "best.keras")
    if settings.whitening:
        _adapt_whitening(model, data.squares, settings)
        replace(folder / "best.keras", model.save)
    metrics = _report(folder, model, evaluation, data.test, checkpoint.rows)
    saved_model = None
    if export_to is not None and keras.backend.backend() == "tensorflow":
        name = settings.name or pathlib.Path(settings.data).stem
        saved_model = export_saved_model(
            model, pathlib.Path(export_to) / name, image_size=settings.image_size
        )
    return RunReport(folder, metrics, saved_model, False)


def _sampler(settings, train):
    augment = None
    if settings.augment:
        jitter = settings.colour_jitter
        augment = Augmentation(
            settings.image_size,
            scale=(settings.crop_scale, 1.0),
            rotation=settings.rotation,
            flip=settings.flip,
            brightness=jitter,
            contrast=jitter,
            saturation=jitter,
        )
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


def _model(settings, steps_per_epoch):
    whitening = settings.whitening and PCAWhitening(
        power=settings.whitening_power, name="whitening"
    )
    model = retrieval_model(
        settings.backbone,
        settings.units,
        pooling=settings.pooling,
        whitening=whitening,
        weights=settings.weights or None,
    )
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
    return model


def _adapt_whitening(model, images, settings):
    whitening = model.get_layer("whitening")
    unwhitened = keras.Model(model.input, whitening.input)
    whitening.adapt(embed(unwhitened, images, workers=settings.workers))


def _report(folder, model, evaluation, test, history):
    """Metrics by row, and the pictures of the run."""

    def snapshot(embeddings):
        result = evaluate_embeddings(embeddings, test.labels, evaluation.queries)
        return Snapshot(-1, embeddings, result)

    rows = {"raw pixels": snapshot(pixel_embeddings(test.images)).result.metrics}
    before = None
    if (folder / "before.npy").exists():
        before = snapshot(np.load(folder / "before.npy"))
        rows["before training"] = before.result.metrics
    evaluation.set_model(model)
    after = evaluation.evaluate(len(history) - 1)
    rows["after training"] = after.result.metrics
    write_evaluation(
        folder / "evaluation", test, after, before=before, metrics=rows,
        queries=evaluation.queries,
    )  # fmt: skip
    if history:
        write_curves(folder, history)
    return rows
