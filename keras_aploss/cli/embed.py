"""`keras-aploss embed`: the embeddings of images by a server, in a file."""

import json
import pathlib
import sys
import tempfile

import click
import keras
import numpy as np

from keras_aploss.cli.extract import print_embedded
from keras_aploss.cli.lists import LISTS, listed_paths, write_table
from keras_aploss.cli.output import clear_errors
from keras_aploss.client import EmbeddingClient
from keras_aploss.client.embedding_client import none_readable
from keras_aploss.embeddings.resuming import check_free
from keras_aploss.embeddings.storage import rows_per_block, save_blocks


@click.command()
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path)
)
@click.option(
    "--server",
    required=True,
    metavar="URL",
    help="grpc://HOST:8500 (extra `serving`) or http://HOST:8501; grpcs, https: TLS.",
)
@click.option(
    "--model",
    default="model",
    show_default=True,
    help="Name under which it is served: `keras-aploss export` takes that of its "
    "folder; the image of TensorFlow Serving, `model`.",
)
@click.option(
    "--model-version",
    type=click.IntRange(1),
    help="A version of it; by default the highest, from beginning to end.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    required=True,
    metavar="FILE.npy",
    help="The file to write.",
)
@click.option(
    "--units", type=click.IntRange(1), help="Refuse embeddings of another size."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Files in a request.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds for each answer.",
)
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="How often a request is sent again while the server is not available.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Requests on their way at a time.",
)
def embed(images, server, output, model, model_version, units, **options):
    """Write the embeddings of IMAGES by a model server.

    IMAGES are image files, folders, which are searched at any depth, and lists: text
    files with a path on each line, CSV and Parquet files with a column `path`.

    As `keras-aploss extract` does, it writes a row of float32 for each image to
    FILE.npy, the paths in the same order to FILE.npy.csv, and what could not be
    embedded to FILE.npy.skipped.csv. Nothing is decoded here. Broken off, it leaves no
    file.

    \b
    Examples:
        keras-aploss embed photo.jpg --server http://localhost:8501 \\
            --model landmarks --output photo.npy
        keras-aploss embed photos/ --server grpc://10.0.0.7:8500 \\
            --model landmarks --output photos.npy
    """
    with clear_errors():
        output.parent.mkdir(parents=True, exist_ok=True)
        check_free(output)
        if output.exists():
            raise ValueError(
                f"Expected a new file. Received: {str(output)!r}, which exists. Choose "
                "another, or delete it."
            )
        paths, others = _find(images)
        client = EmbeddingClient(
            server, model=model, version=model_version, units=units, **options
        )
        with client:
            shape, skipped = _write(client, paths, others, output)
    print_embedded(output, shape, skipped)


def _find(images):
    """The paths that were given, found in folders or listed, each once."""
    paths, others = [], []
    for given in images:
        if given.is_dir() or given.suffix.lower() in LISTS:
            found, unread = listed_paths(given)
            paths += found
            others += unread
        elif given.exists():
            paths.append(str(given))
        else:
            raise ValueError(
                "Expected image files, folders or lists. Received: "
                f"{str(given)!r}, which does not exist."
            )
    return list(dict.fromkeys(paths)), others


def _write(client, paths, others, output):
    """Write all files; the shape of the embeddings, and what was left out."""
    # How many there will be, the header has to say, is known at the end.
    with tempfile.TemporaryFile(dir=output.parent) as rows:
        embedded, skipped = _embed(client, paths, rows)
        skipped += others
        if not embedded:
            raise none_readable(skipped)
        shape = len(embedded), client.units
        settings = {"server": client.server, "model": client.model}
        settings["model_version"] = client.version
        note = {"done": shape[0], "units": shape[1], "settings": settings}
        write_table(f"{output}.csv", ("path",), [(path,) for path in embedded])
        if skipped:
            write_table(f"{output}.skipped.csv", ("path", "reason"), skipped)
        else:
            pathlib.Path(f"{output}.skipped.csv").unlink(missing_ok=True)
        pathlib.Path(f"{output}.json").write_text(json.dumps(note, indent=1))
        save_blocks(_blocks(rows, shape[1]), shape, output)
    return shape, skipped


def _embed(client, paths, rows):
    """Append the embeddings to a file; the paths of its rows, and the skipped."""
    progress = keras.utils.Progbar(
        len(paths), verbose=int(sys.stdout.isatty()), unit_name="image"
    )
    embedded, skipped = [], []
    for embeddings, names, bad in client.embed_batches(paths):
        rows.write(np.ascontiguousarray(embeddings, "<f4"))
        embedded += names
        skipped += bad
        progress.update(len(embedded) + len(skipped))
    return embedded, skipped


def _blocks(rows, units):
    rows.seek(0)
    size = 4 * units * rows_per_block(units)
    while block := rows.read(size):
        yield np.frombuffer(block, "<f4").reshape(-1, units)
