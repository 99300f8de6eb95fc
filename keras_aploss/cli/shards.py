"""`keras-aploss extract --engine ray`: many workers, and a folder of Parquet shards."""

import contextlib
import sys

import click

from keras_aploss.cli.lists import listed_rows
from keras_aploss.cli.output import INTERRUPTED
from keras_aploss.embeddings import (
    MANIFEST,
    SKIPPED,
    read_about,
    read_manifest,
    shard_path,
    write_skipped,
)
from keras_aploss.workers import extract_to_shards, ray_session

_SHARD_SIZE = 256


def ray_options(command):
    """The options of `extract` that say how workers embed."""
    for option in (
        click.option(
            "--shard-size",
            type=click.IntRange(1),
            help=f"Images in a file: what a kill costs. [default: {_SHARD_SIZE}]",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            help="The head of a Ray cluster, or that of this machine: `auto`.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Processes that embed; by default one per GPU or, without any, per "
            "processor.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="This process, or workers on one machine or many (extra `scale`).",
        ),
    ):
        command = option(command)
    return command


def extract_shards(encoder, images, read, output, *, address, shard_size, **options):
    """Write the shards, and say what was written.

    Args:
        encoder: the model.
        images: the folder or list that was given.
        read: makes the sequence of images of paths.
        output: the folder of the shards.
        address: of a cluster, or None.
        shard_size: images per shard, or None.
        options: of `extract_to_shards`.
    """
    rows, others = listed_rows(images)
    options["verbose"] = int(options["verbose"] == 1)
    # Without an address, Ray is started when it is known that there is work.
    session = ray_session(address) if address else contextlib.nullcontext()
    try:
        with session:
            report = extract_to_shards(
                encoder,
                read([path for path, _ in rows]),
                output,
                labels=[label for _, label in rows],
                shard_size=shard_size or _SHARD_SIZE,
                **options,
            )
    except KeyboardInterrupt:
        done = _written(output)
        click.echo(
            f"\nInterrupted: {done:,} of {len(rows):,} embeddings are written. The "
            "same command goes on from there.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    skipped = report.skipped + others
    if others:
        write_skipped(output, skipped)
    click.echo(f"{output}: {report.embedded:,} embeddings in {report.shards:,} shards")
    if skipped:
        click.echo(f"{output / SKIPPED}: {len(skipped):,} files left out, such as")
    for path, reason in skipped[:3]:
        click.echo(f"  {path}: {reason}")


def _written(output):
    """The embeddings in the shards that are there."""
    if not (output / MANIFEST).exists():
        return 0
    shards = range(read_manifest(output)["shards"])
    found = [read_about(shard_path(output, number)) for number in shards]
    return sum(about["rows"] for about in found if about)
