"""`keras-aploss embed`: the embeddings of images by a server, in a file."""

import contextlib
import json
import os
import pathlib
import sys

import click
import keras

from keras_aploss.cli.extract import interruption_explained, print_embedded
from keras_aploss.cli.lists import LISTS, listed_paths, write_table
from keras_aploss.cli.output import clear_errors
from keras_aploss.embeddings import EmbeddingsFile, check_free, digest_of, is_begun
from keras_aploss.images import SkippedImage
from keras_aploss.serving import EmbeddingClient, none_readable


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
    embedded to FILE.npy.skipped.csv. Nothing is decoded here. Broken off by Ctrl-C, a
    kill or a lost server, the same command goes on where it was, with the same version
    of the model.

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
            server,
            model=model,
            version=model_version or _version_begun(output),
            units=units,
            **options,
        )
        with client, interruption_explained(output, len(paths)):
            file, embedded, skipped = _embed(client, paths, output)
            skipped += others
            if not embedded:
                raise none_readable(skipped)
            shape = _finish(file, embedded, skipped)
    print_embedded(output, shape, skipped)


def _version_begun(output):
    """The version by which the embeddings were begun; None if they were not."""
    if not is_begun(output):
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(pathlib.Path(f"{output}.json").read_text(encoding="utf-8"))
        return note["settings"]["model_version"]
    return None


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


def _embed(client, paths, output):
    """Embed what is not done yet; the shape of the embeddings, and what was left out.

    The rows are those of `EmbeddingsFile`. Which image each is of, and what was left
    out, a journal tells, a line for each batch: before the end nobody knows.
    """
    settings = {"images": digest_of(paths), "server": client.server}
    settings |= {"model": client.model, "model_version": client.version}
    file = EmbeddingsFile(output, len(paths), settings)
    journal = pathlib.Path(f"{output}.journal")
    try:
        with file:
            embedded, skipped = _go_on(journal, file)
            client.units = client.units or file.units
            done = {*embedded, *(path for path, _ in skipped)}
            left = [path for path in paths if path not in done]
            for names, bad in _append(client, left, file, journal):
                embedded += names
                skipped += bad
    finally:
        if not is_begun(output):
            journal.unlink(missing_ok=True)
    return file, embedded, skipped


def _append(client, paths, file, journal):
    """Append the rows of each batch; yields their paths, and what was left out."""
    verbose = int(sys.stdout.isatty())
    progress = keras.utils.Progbar(len(paths), verbose=verbose, unit_name="image")
    with open(journal, "a", encoding="utf-8") as lines:
        for embeddings, names, bad in client.embed_batches(paths):
            lines.write(json.dumps([names, bad]) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            if names:
                file.append(embeddings)
            progress.add(len(names) + len(bad))
            yield names, bad


def _go_on(journal, file):
    """What the journal tells of the rows that are safe; what follows is cut off."""
    embedded, skipped, size = [], [], 0
    if not file.done:
        journal.unlink(missing_ok=True)
        return embedded, skipped
    for line in journal.read_bytes().splitlines(keepends=True):
        names, bad = json.loads(line) if line.endswith(b"\n") else ([], [])
        if not line.endswith(b"\n") or len(embedded) + len(names) > file.done:
            break
        embedded += names
        skipped += [SkippedImage(*item) for item in bad]
        size += len(line)
    if len(embedded) != file.done:
        raise ValueError(
            f"Expected {str(journal)!r} to name {file.done:,} images, those that are "
            f"embedded. Received: {len(embedded):,}. Delete {file.partial!r} and begin "
            "again."
        )
    os.truncate(journal, size)
    return embedded, skipped


def _finish(file, embedded, skipped):
    """Write the lists of images, and give the file its name."""
    write_table(f"{file.path}.csv", ("path",), [(path,) for path in embedded])
    if skipped:
        write_table(f"{file.path}.skipped.csv", ("path", "reason"), skipped)
    else:
        pathlib.Path(f"{file.path}.skipped.csv").unlink(missing_ok=True)
    file.count = file.done
    embeddings = file.finish()
    pathlib.Path(f"{file.path}.journal").unlink(missing_ok=True)
    return embeddings.shape
