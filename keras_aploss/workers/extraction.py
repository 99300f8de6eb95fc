"""From images to shards of embeddings, by workers on one machine or on many.

The images are divided into shards of equal size, in order. Ray Data hands the missing
ones to a pool of workers; each holds the model, embeds a shard, writes it and takes the
next. If a worker ends, Ray starts another one, which begins its shard again. This
process only counts.

Dimension key: N images, D units.
"""

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_aploss.embeddings import (
    Progress,
    ShardFolder,
    check_images,
    check_power,
    check_scales,
    describe_images,
    model_fingerprint,
)
from keras_aploss.images import ImageFiles, OriginalImages, SkippedImage
from keras_aploss.workers.cluster import (
    import_ray,
    node_sizes,
    plan_workers,
    ray_session,
    worker_environment,
)
from keras_aploss.workers.worker import ShardEmbedder, attempts_path, model_file

_SAMPLES = 8  # of the images, which every machine must see
_ERRORS = {"OSError": OSError, "ValueError": ValueError, "MemoryError": MemoryError}


class ShardsReport(NamedTuple):
    """The result of `extract_to_shards`: of this call and of those before it.

    Attributes:
        embedded: the embeddings in all shards.
        shards: how many shards there are.
        skipped: the files that were left out.

    Example:
    >>> from keras_aploss.workers import ShardsReport
    >>> ShardsReport(embedded=1000, shards=4, skipped=[]).shards
    4
    """

    embedded: int
    shards: int
    skipped: list[SkippedImage]


def extract_to_shards(
    model: keras.Model,
    images,
    folder: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    left_out: Sequence[SkippedImage] = (),
    scales: Sequence[float] = (1.0,),
    power: float | None = None,
    shard_size: int = 256,
    batch_size: int = 16,
    workers: int | None = None,
    verbose: int = 0,
) -> ShardsReport:
    """Write the embeddings of many images into Parquet shards, by many workers.

    The embeddings are those of `extract_embeddings`, up to the rounding of float32.
    Files that cannot be read are left out, counted, and listed in the folder's
    `_skipped.csv`. A kill at any moment, of a worker or of all, costs the shards that
    were not finished: the same call resumes. A finished folder is left as it is.
    `read_shards` reads it, and so does any reader of Parquet.

    Without `ray.init` before, Ray runs on this machine, and ends with the call. On a
    cluster, call `ray.init(address="auto")` first; each machine needs this package with
    the extra `scale`, and sees the images and the folder under the same paths. The
    model is brought there.

    Args:
        model: maps `(B, H, W, 3)` images to `(B, D)` embeddings.
        images: `ImageFiles` or `OriginalImages`, N files.
        folder: new or empty, or with shards of the same call.
        labels: N texts to keep beside the embeddings.
        left_out: files to list as skipped as well, which are not among the images.
        scales: factors of the sides of each image, to be combined.
        power: exponent of the generalized mean over the scales; None: the mean.
        shard_size: images per shard: what a kill costs each worker.
        batch_size: images that a worker reads at once.
        workers: how many; by default one per GPU or, without any, per processor.
        verbose: 1 shows a progress bar, with the images per second.

    Returns:
        A `ShardsReport`.

    Raises:
        ImportError: Ray or pyarrow is not installed.
        ValueError: for settings out of range, a folder that holds other embeddings
            (says which setting differs), or embeddings that are not finite.
        OSError: a shard cannot be written, or another process writes to the folder.
            The shards that are there are kept.
        RuntimeError: workers end again and again.

    Example:
        images = ImageFiles(paths, image_size=224)
        report = extract_to_shards(model, images, "shards", workers=4)

    >>> from keras_aploss import ImageFiles, retrieval_model
    >>> from keras_aploss.workers import extract_to_shards
    >>> model = retrieval_model("small_resnet", units=8)
    >>> extract_to_shards(model, ImageFiles([], 64), "shards")
    Traceback (most recent call last):
    ...
    ValueError: Expected at least one image. Received: len(images)=0.
    """
    labels = _check(images, labels, shard_size, batch_size)
    options = {"scales": check_scales(scales), "power": power}
    check_power(power)
    check_images(model, images, options["scales"])
    units = _units(model)
    import_ray()
    images, labels, unnamed = _named(images, labels)
    settings = {"kind": type(images).__name__, **describe_images(images), **options}
    settings["fingerprint"] = model_fingerprint(model, fixed_size(images))
    work = ShardFolder(
        folder, settings, images.paths, labels,
        units=units, shard_size=shard_size, left_out=[*unnamed, *left_out],
    )  # fmt: skip
    with work:
        if work.missing:
            options["batch_size"] = batch_size
            with ray_session() as ray, model_file(model, work.path) as place:
                plan = plan_workers(node_sizes(ray), workers, len(work.missing))
                answers = _answers(ray, plan, work, place, images, options)
                _follow(answers, work, verbose)
            _require_all(work)
        work.finish()
    return ShardsReport(work.written, work.shards, work.skipped)


def fixed_size(images) -> int | None:
    """The side of square crops of one size; None for other images."""
    is_square = isinstance(images, ImageFiles) and images.crop
    return images.image_size if is_square else None


def _check(images, labels, shard_size, batch_size):
    """The labels, one for each image."""
    for name, value in (("shard_size", shard_size), ("batch_size", batch_size)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"Expected `{name}` of at least 1. Received: {value!r}.")
    if not len(images):
        raise ValueError("Expected at least one image. Received: len(images)=0.")
    boxes = getattr(images, "boxes", None)
    if not isinstance(images, ImageFiles | OriginalImages) or boxes is not None:
        raise ValueError(
            "Expected `ImageFiles`, or `OriginalImages` without boxes. Received: "
            f"{type(images).__name__}, {boxes=}."
        )
    labels = [""] * len(images) if labels is None else list(labels)
    if len(labels) != len(images):
        raise ValueError(
            "Expected a label for each image. Received: "
            f"len(images)={len(images)}, len(labels)={len(labels)}."
        )
    return labels


def _named(images, labels):
    """The images under absolute paths, their labels, and those that have no name.

    Workers are in other folders; and Parquet holds texts, which names of files need
    not be.
    """
    rows, unnamed = [], []
    for path, label in zip(images.paths, labels, strict=True):
        try:
            path.encode()
            rows.append((os.path.abspath(path), label))
        except UnicodeEncodeError:
            unnamed.append(SkippedImage(path, "its name is not UTF-8; rename it"))
    if not rows:
        raise ValueError(
            f"Expected images whose names are UTF-8. Received: {unnamed[0].path!r}. "
            "Rename them."
        )
    images = copy.copy(images)
    images.paths = [path for path, _ in rows]
    return images, [label for _, label in rows], unnamed


def _samples(paths):
    """Some images that exist here, and must on all machines."""
    step = max(1, len(paths) // _SAMPLES)
    return [path for path in paths[::step][:_SAMPLES] if os.path.exists(path)]


def _units(model):
    outputs = getattr(model, "outputs", None) or [None]
    shape = getattr(outputs[0], "shape", ())
    if len(outputs) != 1 or len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "Expected a model with one output of shape (B, D). Received: outputs of "
            f"shapes {[tuple(getattr(out, 'shape', ())) for out in outputs]}."
        )
    return int(shape[1])


def _answers(ray, plan, work, model, images, options) -> Iterator[dict]:
    """Yield what workers say about each of the missing shards, as they are done."""
    for number in work.missing_shards:
        with contextlib.suppress(FileNotFoundError):
            os.remove(attempts_path(work.writer.path(number)))
    arguments = {"writer": work.writer, "model": model, "images": images[:0]}
    arguments["options"] = {**options, "workers": plan.cpus}
    arguments["samples"] = _samples(images.paths)
    shards = ray.data.from_items(
        work.missing_shards, override_num_blocks=len(work.missing_shards)
    ).map(
        ShardEmbedder,
        fn_constructor_kwargs=arguments,
        # None waits behind another one while a worker has nothing to do.
        compute=ray.data.ActorPoolStrategy(
            size=plan.workers, max_tasks_in_flight_per_actor=1
        ),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
        runtime_env={"env_vars": worker_environment(plan)},
    )
    shards.context.enable_progress_bars = False
    shards.context.print_on_execution_start = False
    # A shard of large images may take hours.
    shards.context.execution_no_progress_timeout_s = -1
    try:
        yield from shards.iter_rows()
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RuntimeError(
            f"Expected workers that embed. Received: {type(error).__name__}: "
            f"{lines[-1].strip() if lines else ''} Each machine needs this package "
            "with the extra `scale`, in the same version. What is written is kept."
        ) from error


def _follow(answers, work, verbose):
    """Count what the workers write; raise what went wrong with one of them."""
    progress = Progress(sum(map(len, work.missing)), verbose)
    with contextlib.closing(answers):
        for answer in answers:
            if answer["error"]:
                raise _ERRORS.get(answer["error"], RuntimeError)(answer["why"])
            work.written += answer["embedded"]
            progress.add(answer["embedded"] + answer["skipped"])


def _require_all(work):
    work.look()
    if work.missing:
        raise OSError(
            f"Expected {work.shards} shards in {work.path!r}. Received: workers that "
            f"wrote them all, and {len(work.missing)} that are not here. Does each "
            "machine see this folder under the same path?"
        )
