"""`keras-aploss search`: the most similar images of an index."""

import sys

import click

from keras_aploss.cli.indexes import open_index, quiet_engines
from keras_aploss.cli.options import index_options, query_options
from keras_aploss.cli.output import clear_errors, in_one_line


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path())
@index_options
@query_options
@click.option(
    "-k",
    "--top",
    type=click.IntRange(1, 16384),
    default=10,
    show_default=True,
    help="Number of images to show.",
)
@click.option(
    "--label", "labels", multiple=True, help="Show only images with this label."
)
@click.option(
    "--expand",
    type=click.IntRange(0, 16384),
    default=0,
    show_default=True,
    help="Query expansion: number of nearest images that are added to the query.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="Query expansion: exponent of the similarities that weigh the images.",
)
def search(
    images, location, name, token, model, image_size, top, labels, expand, alpha
):
    """Show the images of an index that are most similar to each of IMAGES.

    \b
    Examples:
        keras-aploss search photo.jpg
        keras-aploss search photo.jpg --index photos.db --top 20 --expand 5
    """
    import numpy as np

    from keras_aploss.embeddings import embed
    from keras_aploss.images import load_image

    quiet_engines()
    with clear_errors():
        encoder, size, opened = open_index(location, name, token, model, image_size)
        with opened:
            if not len(opened):
                raise ValueError(
                    f"Expected an index with images. Received: {location!r}, which is "
                    "empty. Fill it with `keras-aploss index`."
                )
            queries = np.stack([load_image(path, size) for path in images])
            found = opened.search(
                embed(encoder, queries, batch_size=16),
                top,
                labels=list(labels) or None,
                expand_by=expand,
                alpha=alpha,
            )
    for path, results in zip(images, found, strict=True):
        _print_results(path, results)


def _print_results(path, results):
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("similarity", justify="right", no_wrap=True)
    table.add_column("label", overflow="fold")
    table.add_column("path", overflow="fold")
    for image in results:
        label, name = in_one_line(image.label), in_one_line(image.path)
        table.add_row(f"{image.similarity:.4f}", Text(label), Text(name))
    # Through a pipe a table of 80 columns would break paths that are looked for.
    console = Console() if sys.stdout.isatty() else Console(width=8300)
    console.print(Text(f"\n{in_one_line(str(path))}", style="bold"))
    console.print(table)
