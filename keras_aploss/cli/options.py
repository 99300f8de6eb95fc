"""Options and arguments that several commands share."""

import pathlib

import click

from keras_aploss.images import MAX_PIXELS

PATH = click.Path(path_type=pathlib.Path)
EXISTING_PATH = click.Path(exists=True, path_type=pathlib.Path)
INDEX, COLLECTION = "images.db", "images"  # unless told otherwise
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=pathlib.Path)

model_argument = click.argument("model", type=EXISTING_PATH)

image_size_option = click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help="Side of the square images; by default as in training.",
)

scales_option = click.option(
    "--scales",
    default="1",
    show_default=True,
    help="Factors at which each image is embedded, such as 1,0.7071,0.5.",
)

whitening_power_option = click.option(
    "--whitening-power",
    default=0.25,
    show_default=True,
    help="Exponent of the variances that a learnt whitening divides by.",
)

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=MAX_PIXELS,
    show_default=True,
    help="Refuse images with more pixels, before they are decoded.",
)


def batch_size_option(help: str):
    """The option `--batch-size` of commands that embed."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=16,
        show_default=True,
        help=help,
    )


def index_options(command):
    """Add the options that name an index, of `index`, `search` and `app`."""
    for option in (
        click.option(
            "--token",
            envvar="MILVUS_TOKEN",
            help="user:password or API key of a server; by default $MILVUS_TOKEN.",
        ),
        click.option(
            "--name",
            default=COLLECTION,
            show_default=True,
            help="Name of the collection on a server.",
        ),
        click.option(
            "--index",
            "location",
            default=INDEX,
            show_default=True,
            metavar="PATH.db|URL",
            help="A local index, or the address of a Milvus server.",
        ),
    ):
        command = option(command)
    return command


def query_options(command):
    """Add the options that name the model of queries, of `search` and `app`."""
    for option in (
        click.option(
            "--image-size",
            type=click.IntRange(min=1),
            help="Side of the square images; by default as in the index.",
        ),
        click.option(
            "--model",
            type=EXISTING_PATH,
            help="Model that embeds queries; by default that of the index, unless it "
            "is a SavedModel of others or in the folder of the index.",
        ),
    ):
        command = option(command)
    return command


def read_scales(text: str) -> list[float]:
    """Return the numbers of `--scales`; raise a ValueError unless all are above 0."""
    from keras_aploss.embeddings import check_scales

    try:
        return check_scales([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ValueError(
            "Expected `--scales` as comma-separated numbers above 0, such as "
            f"1,0.7071,0.5. Received: {text!r}."
        ) from error
