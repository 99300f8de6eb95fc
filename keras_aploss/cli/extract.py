"""`keras-aploss extract`: the embeddings of a folder or a list of images, in files."""

import contextlib
import csv
import functools
import json
import os
import pathlib
import sys

import click

from keras_aploss.cli.lists import listed_paths, write_table
from keras_aploss.cli.options import read_scales, scales_option
from keras_aploss.cli.output import INTERRUPTED, clear_errors
from keras_aploss.cli.shards import extract_shards, ray_options
from keras_aploss.datasets import readable_rows
from keras_aploss.embeddings import (
    check_free,
    check_power,
    extract_embeddings,
    is_begun,
)
from keras_aploss.images import ImageFiles, OriginalImages, SkippedImage
from keras_aploss.runs import open_model


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.argument("images", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option(
    "--output",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    metavar="FILE.npy|FOLDER",
    help="What to write, or to go on with: a file; with `--engine ray` a folder.",
)
@click.option(
    "--image-size", type=int, help="Side of the squares; by default the run's."
)
@click.option(
    "--original-size", is_flag=True, help="Whole images at their own size, not squares."
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
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Images to read at once; those of one size are embedded together.",
)
@ray_options
def extract(
    model, images, output, image_size, original_size, max_size, engine, **options
):
    """Write the embeddings of IMAGES by MODEL.

    MODEL is a run folder, a `.keras` or `.pt` file, or a version of a SavedModel.
    IMAGES is a folder, searched at any depth; a text file with a path on each line; a
    CSV or a Parquet file with a column `path` and, if wanted, `label`; or a folder of
    shards. Relative paths start at the folder of the list.

    FILE.npy has a row of float32 for each image, in the order of FILE.npy.csv. What
    cannot be read is left out, and listed in FILE.npy.skipped.csv. Broken off by Ctrl-C
    or a kill, the same command goes on where it was.

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
    whole = original_size or max_size is not None
    with clear_errors():
        if whole and image_size is not None:
            raise ValueError(
                "Expected `--image-size`, which cuts squares, or `--original-size` or "
                "`--max-size`, which keep images whole. Received both."
            )
        options["scales"] = read_scales(options["scales"])
        check_power(options["power"])
        options["verbose"] = 1 if sys.stdout.isatty() else 2
        ray = {name: options.pop(name) for name in ("workers", "address", "shard_size")}
        if engine == "ray":
            _require_folder(output)
        else:
            _require_no_ray(ray)
            output.parent.mkdir(parents=True, exist_ok=True)
            check_free(output)
        trained = open_model(model, image_size, needs_size=not whole)
        encoder, settings = trained.encoder, trained.settings
        if whole:
            read = functools.partial(OriginalImages, max_size=max_size)
        else:
            read = functools.partial(ImageFiles, image_size=settings.image_size)
        if engine == "ray":
            extract_shards(encoder, images, read, output, **options, **ray)
        else:
            _extract_file(encoder, images, read, output, **options)


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


def _extract_file(encoder, images, read, output, **options):
    """Write FILE.npy and its lists, in this process."""
    paths, skipped = _readable_paths(images, output, int(options["verbose"] == 1))
    # Threads that read wait for each other as well: more of them than processors.
    threads = 2 * (os.cpu_count() or 1)
    with interruption_explained(output, len(paths)):
        embeddings = extract_embeddings(
            encoder, read(paths), output, workers=threads, **options
        )
    print_embedded(output, embeddings.shape, skipped)


def print_embedded(output, shape, skipped):
    """Say what was written: a file of `shape`, its list, and what was left out."""
    count, units = shape
    click.echo(f"{output}: {count:,} embeddings of {units:,} units")
    click.echo(f"{output}.csv: the image of each")
    if skipped:
        click.echo(f"{output}.skipped.csv: {len(skipped):,} files left out, such as")
    for path, reason in skipped[:3]:
        click.echo(f"  {path}: {reason}")


@contextlib.contextmanager
def interruption_explained(output, count):
    """Say how much is written when Ctrl-C, a full disk or a lost server ends it."""
    try:
        yield
    except KeyboardInterrupt:
        _say_how_far("\nInterrupted: ", _count_written(output), count)
        sys.exit(INTERRUPTED)
    except OSError:
        if done := _count_written(output):
            _say_how_far("", done, count)
        raise


def _count_written(output):
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(pathlib.Path(f"{output}.json").read_text())["done"]
    return 0


def _say_how_far(event, done, count):
    click.echo(
        f"{event}{done:,} of {count:,} embeddings are written. The same command goes "
        "on from there.",
        err=True,
    )


def _readable_paths(images, output, verbose):
    """The images that can be read, in order, and those that cannot."""
    paths, others = listed_paths(images)
    begun = is_begun(output)
    if begun:
        # Each was looked at when the work began: not again, if they are the same.
        before = _read_lists(output)
        if before and sorted([*before[0], *(path for path, _ in before[1])]) == sorted(
            [*paths, *(path for path, _ in others)]
        ):
            return before
    rows, skipped = readable_rows([(path,) for path in paths], {"verbose": verbose})
    bad = {item.path: item for item in skipped}
    skipped = [bad[path] for path in paths if path in bad] + others
    readable = [path for (path,) in rows]
    if begun:
        return readable, skipped  # the lists beside it are those it was begun with
    write_table(f"{output}.csv", ("path",), [(path,) for path in readable])
    if skipped:
        write_table(f"{output}.skipped.csv", ("path", "reason"), skipped)
    else:
        pathlib.Path(f"{output}.skipped.csv").unlink(missing_ok=True)
    return readable, skipped


def _read_lists(output):
    """What `write_table` wrote when the work began; None if it is gone."""
    try:
        with _opened(f"{output}.csv") as file:
            paths = [path for (path,) in list(csv.reader(file))[1:]]
        skipped = []
        if pathlib.Path(f"{output}.skipped.csv").exists():
            with _opened(f"{output}.skipped.csv") as file:
                skipped = [SkippedImage(*row) for row in list(csv.reader(file))[1:]]
    except (OSError, ValueError, TypeError):
        return None
    return paths, skipped


def _opened(path):
    return open(path, encoding="utf-8", errors="surrogateescape", newline="")
