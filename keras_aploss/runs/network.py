"""The model of a run, its chunks, its batches and its optimizer."""

import logging

import keras
import numpy as np

from keras_aploss.datasets import ImageSet
from keras_aploss.embeddings import check_image_size
from keras_aploss.images import Augmentation
from keras_aploss.layers import PCAWhitening
from keras_aploss.losses import APLoss
from keras_aploss.metrics import BatchAP
from keras_aploss.models import retrieval_model
from keras_aploss.runs.backbone import is_trained_model, open_backbone
from keras_aploss.runs.defaults import with_image_size
from keras_aploss.runs.devices import Devices
from keras_aploss.runs.precision import use_precision
from keras_aploss.runs.settings import RunSettings, largest_divisor
from keras_aploss.samplers import ClassBalancedSampler
from keras_aploss.training import MultistageTrainer, choose_num_chunks

logger = logging.getLogger(__name__)


def build_encoder(settings: RunSettings) -> keras.Model:
    """Build the untrained retrieval model in the precision of the settings.

    Where the backbone is a trained model, its training goes on from there.

    Raises:
        ValueError: if the backbone or its weights cannot be had, or it does not take
            images of the size of the settings.
    """
    whitening = settings.whitening and PCAWhitening(
        power=settings.whitening_power, name="whitening", dtype="float32"
    )
    backbone, weights = settings.backbone, settings.weights or None
    size = with_image_size(settings).image_size  # 0: that of the model
    if is_trained_model(backbone):
        backbone = open_backbone(settings)
    with use_precision(settings.precision):
        encoder = retrieval_model(
            backbone,
            settings.units or None,
            pooling=settings.pooling,
            image_size=size or None,
            whitening=whitening,
            weights=weights,
        )
    if size:
        check_image_size(encoder, size)
    return encoder


def batch_shape(settings: RunSettings, num_classes: int) -> tuple[int, int]:
    """Classes per batch and images per class, for a training set of `num_classes`.

    With fewer classes than the settings ask for there are more images of each, so that
    the batch keeps its size. Only where no number of classes divides the size, the
    batch is smaller.

    >>> batch_shape(RunSettings(classes_per_batch=512, images_per_class=8), 200)
    (128, 32)
    >>> batch_shape(RunSettings(classes_per_batch=5, images_per_class=3), 2)
    (2, 3)
    """
    size, images = settings.batch_size, settings.images_per_class
    if settings.classes_per_batch <= num_classes:
        return settings.classes_per_batch, images
    classes = largest_divisor(size, num_classes)
    return (num_classes, images) if classes is None else (classes, size // classes)


def num_chunks_of(settings: RunSettings, encoder: keras.Model, devices: Devices) -> int:
    """The number of chunks: that of the settings, or as few as their memory allows."""
    size = settings.batch_size
    if size % devices.num_devices:
        raise ValueError(
            "Expected a batch that the devices divide evenly. Received: a batch of "
            f"{size} images for {devices.num_devices} devices. Choose a batch size "
            f"that is a multiple of {devices.num_devices}."
        )
    if settings.num_chunks:
        return min(settings.num_chunks, size // devices.num_devices)
    return choose_num_chunks(
        encoder,
        (settings.image_size, settings.image_size, 3),
        size,
        settings.memory_gib,
        num_devices=devices.num_devices,
    )


def make_sampler(
    settings: RunSettings, train: ImageSet, devices: Devices
) -> ClassBalancedSampler:
    """The batches of a run, or the part of them that this process reads.

    With more than one chunk, images are read when their chunk is embedded.
    """
    num_classes = len(np.unique(train.labels[train.labels >= 0]))
    classes, images = batch_shape(settings, num_classes)
    if num_classes < settings.classes_per_batch:
        logger.warning(
            "There are %d training classes: a batch holds %d classes and %d images of "
            "each instead of %d and %d.",
            num_classes,
            classes,
            images,
            settings.classes_per_batch,
            settings.images_per_class,
        )
    parts = devices.num_devices
    if settings.strategy == "data_parallel":
        parts *= settings.num_chunks  # which each device reads by itself
    if classes * images % parts:
        raise ValueError(
            "Expected batches that the devices and their chunks divide evenly. "
            f"Received: {classes} classes of {images} images for {devices.num_devices} "
            f"devices in num_chunks={settings.num_chunks}. Choose a batch size that "
            f"is a multiple of {parts}, and not more classes than there are."
        )
    return ClassBalancedSampler(
        train.images,
        train.labels,
        classes_per_batch=classes,
        images_per_class=images,
        steps_per_epoch=settings.steps_per_epoch or None,
        augment=_augmentation(settings) if settings.augment else None,
        seed=settings.seed,
        references=settings.num_chunks > 1,
        shard=(devices.process, devices.num_processes),
        workers=settings.workers,
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


def in_chunks(
    model: keras.Model, settings: RunSettings, sampler: ClassBalancedSampler
) -> keras.Model:
    """Wrap a model that is trained in chunks by its trainer, which reads the images."""
    if settings.num_chunks <= 1:
        return model
    if not isinstance(model, MultistageTrainer):
        size = settings.image_size
        model = MultistageTrainer(
            model, settings.num_chunks, image_shape=(size, size, 3)
        )
    model.load = sampler.load
    return model


def compile_model(
    model: keras.Model, settings: RunSettings, steps_per_epoch: int
) -> None:
    """Compile with the AP loss and AdamW: linear warm-up, then cosine decay."""
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
    model.compile(optimizer, loss, metrics=[BatchAP()])
