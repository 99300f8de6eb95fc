"""`keras-aploss extract`: the embeddings of a folder or a list of images, in files."""

import contextlib
import functools
import os
import sys

import click

from keras_aploss.cli.lists import rows_in
from keras_aploss.cli.options import (
    EXISTING_PATH,
    PATH,
    batch_size_option,
    image_size_option,
    model_argument,
    read_scales,
    scales_option,
)
from keras_aploss.cli.output import (
    clear_errors,
    print_embedded,
    print_skipped,
    resuming_explained,
)

_SHARD_SIZE = 256


@click.command()
@model_argument
@click.argument("images", type=EXISTING_PATH)
@click.option(
    "--output",
    type=PATH,
    required=True,
    metavar="FILE.npy|FOLDER",
    help="What to write, or to resume: a file; with `--engine ray` a folder.",
)
@image_size_option
@click.option(
    "--original-size",
    is_flag=True,
    help="Whole images at their own size, not square crops.",
)
@click.option(
    "--max-size",
    type=click.IntRange(1),
    help="The same, but shrunk to a longer side of at most this.",
)
@scales_option
@click.option(
    "--power",
    type=float,
    help="Exponent of the generalized mean over the scales; by default the plain mean.",
)
@batch_size_option("Images to read at once; those of one size are embedded together.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process, or workers on one machine or many (extra `scale`).",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that embed; by default one per GPU or, without any, per processor.",
)
@click.option(
    "--address",
    metavar="HOST:PORT|auto",
    help="The head of a Ray cluster, or that of this machine: `auto`.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    help=f"Images in a file: what a kill costs. [default: {_SHARD_SIZE}]",
)
def extract(
    model, images, output, image_size, original_size, max_size, engine, **options
):
    """Write the embeddings of IMAGES by MODEL.

    MODEL is a run folder, a `.keras` or `.pt` file, or a version of a SavedModel.
    IMAGES is a folder, searched at any depth; a text file with a path on each line; a
    CSV or a Parquet file with a column `path` and, if wanted, `label`; or a folder of
    shards. Relative paths start at the folder of the list.

    FILE.npy has a row of float32 for each image, in the order of FILE.npy.csv. What
    cannot be read is left out, and listed in FILE.npy.skipped.csv. If interrupted, by
    Ctrl-C or a kill, rerun the command to resume.

    With `--engine ray` (extra `scale`) many workers, on this machine or a cluster,
    write Parquet files with the columns `id`, `path`, `label` and `vector` to FOLDER,
    and what was left out to FOLDER/_skipped.csv. `keras-aploss index FOLDER` indexes
    them.

    \b
    Examples:
        keras-aploss extract runs/landmarks photos/ --output photos.npy
        keras-aploss extract model.keras list.txt --output list.npy --max-size 1024 \\
            --scales 1,0.7071,0.5
        keras-aploss extract runs/landmarks photos/ --engine ray --output shards
    """
    from keras_aploss.embeddings import check_npy_path, check_power
    from keras_aploss.images import ImageFiles, OriginalImages
    from keras_aploss.runs import open_model

    whole = original_size or max_size is not None
    with clear_errors(), resuming_explained():
        if whole and image_size is not None:
            raise ValueError(
                "Expected `--image-size`, which cuts squares, or `--original-size` or "
                "`--max-size`, which keep images whole. Received both."
            )
        options["scales"] = read_scales(options["scales"])
        check_power(options["power"])
        ray = {name: options.pop(name) for name in ("workers", "address", "shard_size")}
        if engine == "ray":
            _require_folder(output)
        else:
            _require_no_ray(ray)
            output.parent.mkdir(parents=True, exist_ok=True)
            check_npy_path(output)
        trained = open_model(model, image_size, needs_size=not whole)
        encoder, settings = trained.encoder, trained.settings
        if whole:
            read = functools.partial(OriginalImages, max_size=max_size)
        else:
            read = functools.partial(ImageFiles, image_size=settings.image_size)
        if engine == "ray":
            _write_shards(encoder, images, read, output, **options, **ray)
        else:
            _write_file(encoder, images, read, output, **options)


def _require_folder(output):
    if output.suffix == ".npy" or output.is_file():
        raise ValueError(
            "Expected a folder as `--output`, for the files that the workers of "
            f"`--engine ray` write. Received: {str(output)!r}."
        )


def _require_no_ray(options):
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise ValueError(
            f"Expected `--engine ray` beside {given[0]}, which is an option of it. "
            "Received: the engine `local`."
        )


def _write_file(encoder, images, read, output, **options):
    """Write FILE.npy and its lists, in this process."""
    from keras_aploss.embeddings import extract_files

    rows, left_out = rows_in(images)
    embeddings, skipped = extract_files(
        encoder,
        read([path for path, _ in rows]),
        output,
        left_out=left_out,
        # Threads that read wait for each other as well: more of them than processors.
        workers=2 * (os.cpu_count() or 1),
        verbose=1 if sys.stdout.isatty() else 2,
        **options,
    )
    print_embedded(output, embeddings.shape, skipped)


def _write_shards(encoder, images, read, output, *, address, shard_size, **options):
    """Write the shards, by workers on Ray."""
    from keras_aploss.workers import extract_to_shards, ray_session

    rows, left_out = rows_in(images)
    # Without an address, Ray is started when it is known that there is work.
    session = ray_session(address) if address else contextlib.nullcontext()
    with session:
        report = extract_to_shards(
            encoder,
            read([path for path, _ in rows]),
            output,
            labels=[label for _, label in rows],
            left_out=left_out,
            shard_size=shard_size or _SHARD_SIZE,
            verbose=int(sys.stdout.isatty()),
            **options,
        )
    click.echo(f"{output}: {report.embedded:,} embeddings in {report.shards:,} shards")
    print_skipped(output / "_skipped.csv", report.skipped)
