"""`keras-aploss index`: make a folder of images searchable."""

import contextlib
import shlex
import sys

import click

from keras_aploss.cli.indexes import (
    describe_model,
    model_of_new_index,
    open_index,
    quiet_engines,
)
from keras_aploss.cli.options import (
    COLLECTION,
    EXISTING_FOLDER,
    EXISTING_PATH,
    INDEX,
    batch_size_option,
    image_size_option,
    index_options,
)
from keras_aploss.cli.output import INTERRUPTED, clear_errors, in_one_line


@click.command()
@click.argument("folder", type=EXISTING_FOLDER)
@click.option(
    "--model",
    type=EXISTING_PATH,
    help="A run folder, a `.keras` or `.pt` file, or a SavedModel; by default the "
    "model of the index, and of a new one that of photographs, which comes with the "
    "package.",
)
@index_options
@image_size_option
@click.option(
    "--index-type",
    type=click.Choice(["FLAT", "HNSW", "AUTOINDEX"]),
    default="FLAT",
    show_default=True,
    help="Type of a new index: exact search, a graph of neighbours, or the choice of "
    "the server.",
)
@batch_size_option("Number of images to embed at once.")
@click.option(
    "--recall/--no-recall",
    default=True,
    show_default=True,
    help="At the end compare the index with exact search (reads all embeddings).",
)
def index(
    folder, model, location, name, token, image_size, index_type, batch_size, recall
):
    """Update an index with the images below FOLDER.

    Only new and changed files are embedded, as told by their hashes; moved files keep
    their embeddings, and deleted files are removed from the index. The label of an
    image is the sub-folder that it lies in. If interrupted, rerun the command to
    resume.

    If FOLDER holds shards, written by `keras-aploss extract --engine ray`, their
    embeddings are added; nothing is embedded or deleted.

    \b
    Examples:
        keras-aploss index photos/
        keras-aploss index photos/ --model runs/landmarks --index landmarks.db
        keras-aploss index shards/ --model runs/landmarks
        keras-aploss index photos/ --model model.keras --image-size 224 \\
            --index http://milvus.example:19530
    """
    from keras_aploss.embeddings import is_shard_folder

    quiet_engines()
    with clear_errors():
        is_shards = is_shard_folder(folder)
        is_enough = model is None  # what the index notes, for other commands
        model = model or model_of_new_index(location, name, token)
        if is_shards and model is not None:
            image_size = _size_of_shards(folder, model, image_size)
        encoder, size, opened = open_index(
            location, name, token, model, image_size, index_type
        )
        with opened:
            click.echo(
                f"Model: {in_one_line(describe_model(model, opened))}, {size} px"
            )
            with _left_as_it_was(opened), _interruption_explained(opened):
                if is_shards:
                    done = _add_shards(opened, folder)
                else:
                    done = _follow_folder(opened, encoder, folder, size, batch_size)
            count = len(opened)
            found = opened.recall() if recall and count else None
    click.echo(f"{location}: {count:,} images. {done}")
    if found is not None:
        click.echo(f"recall@10 against exact search: {found:.3f}")
    if is_enough and count:
        click.echo(f"Search it:  {_app_command(location, name)}")


def _app_command(location, name):
    """The command that searches an index in the browser."""
    words = ["keras-aploss", "app"]
    words += ["--index", location] if location != INDEX else []
    words += ["--name", name] if name != COLLECTION else []
    return shlex.join(words)


def _follow_folder(opened, encoder, folder, size, batch_size):
    """Update the index from a folder; returns a summary."""
    from keras_aploss.search import index_folder

    report = index_folder(
        opened,
        encoder,
        folder,
        image_size=size,
        batch_size=batch_size,
        verbose=int(sys.stdout.isatty()),
    )
    return (
        f"{report.embedded:,} embedded, {report.moved:,} moved or copied, "
        f"{report.unchanged:,} unchanged, {report.deleted:,} deleted, "
        f"{len(report.skipped):,} files left out."
    )


def _add_shards(opened, folder):
    """Add the embeddings of shards; returns a summary."""
    from keras_aploss.search import index_shards

    added = index_shards(opened, folder, verbose=int(sys.stdout.isatty()))
    return f"{added:,} added from {folder}."


def _size_of_shards(folder, model, image_size):
    """Return the image size of shards that can be searched by a model.

    A query is embedded as a square, at one scale. Shards of another model are refused
    before an index is made.
    """
    from keras_aploss.embeddings import model_fingerprint, read_manifest
    from keras_aploss.runs import open_model

    settings = read_manifest(folder)["settings"]
    size = settings.get("image_size")
    if not settings.get("crop") or settings["scales"] != [1.0]:
        raise ValueError(
            "Expected embeddings of square crops at one scale, as queries have. "
            f"Received: {str(folder)!r}, of whole images or several scales. Extract "
            "them with `--image-size`, or add them in Python: `index_shards`."
        )
    trained = open_model(model, image_size or size)
    size = trained.settings.image_size
    fingerprint = model_fingerprint(trained.encoder, size)
    if fingerprint != settings["fingerprint"]:
        raise ValueError(
            f"Expected the model of the shards in {str(folder)!r}, with the "
            f"fingerprint {settings['fingerprint']}. Received: a model with the "
            f"fingerprint {fingerprint}: other weights, or another image size. Use "
            "that model, or extract the images with this one."
        )
    return size


@contextlib.contextmanager
def _left_as_it_was(opened):
    """Leave no empty index, bound to a model, behind a command that fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            opened.discard_if_empty()
        raise


@contextlib.contextmanager
def _interruption_explained(opened):
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted: {len(opened):,} images are in the index. Rerun the "
            "command to resume.",
            err=True,
        )
        sys.exit(INTERRUPTED)
