"""`keras-aploss embed`: the embeddings of images by a server, in a file."""

import pathlib
import sys

import click

from keras_aploss.cli.lists import paths_in
from keras_aploss.cli.options import PATH, batch_size_option
from keras_aploss.cli.output import clear_errors, print_embedded, resuming_explained


@click.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
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
    help="A version of it, from beginning to end; by default the one that has the "
    "label `stable`; if the server has given none, the highest.",
)
@click.option(
    "--model-label", help="Take the version that has this label, such as `canary`."
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
@batch_size_option("Files in a request.")
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
def embed(images, server, output, model, model_version, model_label, **options):
    """Write the embeddings of IMAGES by a model server.

    IMAGES are image files, folders, which are searched at any depth, and lists: text
    files with a path on each line, CSV and Parquet files with a column `path`.

    As `keras-aploss extract` does, it writes a row of float32 for each image to
    FILE.npy, the paths in the same order to FILE.npy.csv, and what could not be
    embedded to FILE.npy.skipped.csv. Nothing is decoded here. If interrupted, by
    Ctrl-C, a kill or a lost server, rerun the command to resume, with the same version
    of the model.

    \b
    Examples:
        keras-aploss embed photo.jpg --server http://localhost:8501 \\
            --model landmarks --output photo.npy
        keras-aploss embed photos/ --server grpc://10.0.0.7:8500 \\
            --model landmarks --output photos.npy
    """
    from keras_aploss.embeddings import begun_settings, check_npy_path
    from keras_aploss.serving import EmbeddingClient, extract_by_server

    with clear_errors(), resuming_explained():
        output.parent.mkdir(parents=True, exist_ok=True)
        check_npy_path(output)
        if output.exists():
            raise ValueError(
                f"Expected a new file. Received: {str(output)!r}, which exists. Choose "
                "another, or delete it."
            )
        paths, left_out = paths_in(images)
        if model_version is None:
            # A newer version must not embed the rest.
            model_version = begun_settings(output).get("model_version")
            model_label = model_label if model_version is None else None
        client = EmbeddingClient(
            server, model=model, version=model_version, label=model_label, **options
        )
        with client:
            embeddings, skipped = extract_by_server(
                client,
                paths,
                output,
                left_out=left_out,
                verbose=int(sys.stdout.isatty()),
            )
    print_embedded(output, embeddings.shape, skipped)
    click.echo(f"By version {client.version} of {model!r} at {server}")
