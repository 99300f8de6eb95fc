"""`keras-aploss index`: the images of a folder, in an index that can be searched."""

import contextlib
import logging
import pathlib
import sys

import click

from keras_aploss.cli.models import load_encoder
from keras_aploss.cli.output import INTERRUPTED, clear_errors
from keras_aploss.embeddings import is_shard_folder, model_fingerprint, read_manifest
from keras_aploss.search import VectorIndex, index_folder, index_shards


def index_options(command):
    """The options that say which index: of `index` and of `search`."""
    for option in (
        click.option(
            "--token",
            envvar="MILVUS_TOKEN",
            help="user:password or API key of a server; by default $MILVUS_TOKEN.",
        ),
        click.option(
            "--name",
            default="images",
            show_default=True,
            help="Name of the collection, where a server holds several.",
        ),
        click.option(
            "--index",
            "location",
            default="images.db",
            show_default=True,
            metavar="PATH.db|URL",
            help="A local index, or the address of a Milvus server.",
        ),
    ):
        command = option(command)
    return command


def query_options(command):
    """The options that say which model queries are embedded by: mostly the index's."""
    for option in (
        click.option("--image-size", type=int, help="By default that of the index."),
        click.option(
            "--model",
            type=click.Path(exists=True, path_type=pathlib.Path),
            help="By default the model that the index was made by, from where it was.",
        ),
    ):
        command = option(command)
    return command


def quiet_engines():
    """Leave to our errors what engines log as well, with tracebacks."""
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        import pymilvus  # noqa: F401
    except ImportError:
        return
    # It sets a level of its own when it is imported.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


@click.command()
@click.argument("folder", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--model",
    type=click.Path(exists=True, path_type=pathlib.Path),
    help="Run folder, `.keras` or `.pt` file, or SavedModel; by default the index's.",
)
@index_options
@click.option(
    "--image-size", type=int, help="Side of the squares; by default the run's."
)
@click.option(
    "--index-type",
    type=click.Choice(["FLAT", "HNSW", "AUTOINDEX"]),
    default="FLAT",
    show_default=True,
    help="Of a new index: exact, a graph of neighbours, or as the server thinks best.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Images that the model takes at once.",
)
@click.option(
    "--recall/--no-recall",
    default=True,
    show_default=True,
    help="Compare the index with exact search at the end (reads all embeddings).",
)
def index(
    folder, model, location, name, token, image_size, index_type, batch_size, recall
):
    """Bring an index up to date with the images below FOLDER.

    Only what is new or has changed is embedded, by the hashes of the files; moved files
    keep their embeddings, and what is gone leaves the index. The label of an image is
    the sub-folder that it lies in. Broken off by Ctrl-C or a kill, the same command
    goes on where it was.

    If FOLDER is what `keras-aploss extract --engine ray` wrote, its embeddings are
    added, and nothing is embedded or deleted.

    \b
    Examples:
        keras-aploss index photos/ --model runs/landmarks
        keras-aploss index photos/
        keras-aploss index shards/ --model runs/landmarks
        keras-aploss index photos/ --model model.keras --image-size 224 \\
            --index http://milvus.example:19530
    """
    quiet_engines()
    with clear_errors():
        is_shards = is_shard_folder(folder)
        if is_shards and model is not None:
            image_size = _size_of_shards(folder, model, image_size)
        encoder, size, opened = open_index(
            location, name, token, model, image_size, index_type
        )
        with opened:
            with _interruption_explained(opened):
                if is_shards:
                    done = _add_shards(opened, folder)
                else:
                    done = _follow_folder(opened, encoder, folder, size, batch_size)
            count = len(opened)
            found = opened.recall() if recall and count else None
    click.echo(f"{location}: {count:,} images. {done}")
    if found is not None:
        click.echo(f"recall@10 against exact search: {found:.3f}")


def _follow_folder(opened, encoder, folder, size, batch_size):
    """Bring the index up to date; what was done, in words."""
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
    """Add the embeddings of the shards; what was done, in words."""
    added = index_shards(opened, folder, verbose=int(sys.stdout.isatty()))
    return f"{added:,} added from {folder}."


def _size_of_shards(folder, model, image_size):
    """The size of the images that shards were made of, if they can be searched.

    A query is embedded as a square, at one scale. Shards of another model are refused
    before there is an index.
    """
    settings = read_manifest(folder)["settings"]
    size = settings.get("image_size")
    if not settings.get("crop") or settings["scales"] != [1.0]:
        raise ValueError(
            "Expected embeddings of squares at one scale, as those of queries are. "
            f"Received: {str(folder)!r}, of whole images or several scales. Extract "
            "them with `--image-size`, or add them in Python: `index_shards`."
        )
    encoder, trained = load_encoder(model, image_size or size)
    fingerprint = model_fingerprint(encoder, trained.image_size)
    if fingerprint != settings["fingerprint"]:
        raise ValueError(
            f"Expected the model of the shards in {str(folder)!r}, with the "
            f"fingerprint {settings['fingerprint']}. Received: a model with the "
            f"fingerprint {fingerprint}: other weights, or another image size. Take "
            "that model, or extract the images with this one."
        )
    return trained.image_size


@contextlib.contextmanager
def _interruption_explained(opened):
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted: {len(opened):,} images are in the index. The same "
            "command goes on from there.",
            err=True,
        )
        sys.exit(INTERRUPTED)


def open_index(location, name, token, model, image_size, index_type=None):
    """The model of an index, the size of its images, and the index.

    An index of another model is refused. Without a `model` it is that of the index;
    with an `index_type` there may be no index yet.
    """
    places = {"name": name, "token": token}
    if model is not None:
        encoder, settings = load_encoder(model, image_size)
        size = settings.image_size
        new = {}
        if index_type is not None:
            new = {"units": encoder.outputs[0].shape[-1], "index_type": index_type}
            new["notes"] = {"model": str(model.absolute()), "image_size": size}
        fingerprint = model_fingerprint(encoder, size)
        opened = VectorIndex(location, fingerprint=fingerprint, **new, **places)
        return encoder, size, opened
    opened = VectorIndex(location, **places)
    try:
        path = pathlib.Path(opened.notes.get("model", ""))
        size = image_size or opened.notes.get("image_size")
        if not opened.notes or not path.exists():
            raise ValueError(
                f"Expected the model of the index where it was: {str(path)!r}. "
                "Received: nothing there. Give `--model`."
            )
        encoder, settings = load_encoder(path, size)
        opened.require_model(model_fingerprint(encoder, settings.image_size))
    except BaseException:
        opened.close()
        raise
    return encoder, settings.image_size, opened
