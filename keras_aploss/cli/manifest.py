"""`keras-aploss manifest`: the images of a public data set as a CSV file."""

import pathlib
import sys

import click

from keras_aploss.cli.options import PATH
from keras_aploss.cli.output import clear_errors


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--root",
    required=True,
    type=PATH,
    help="Folder of the files of the data set.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="CSV file to write; by default NAME.csv.",
)
def manifest(name, root, output):
    """Write the images of a public data set to a CSV file, for `train --data`.

    NAME is sop, cub200 or inaturalist2018, which define a test set, or landmarks_clean,
    gldv2 or gldv2_clean, of which `train` holds out classes.

    \b
    Examples:
        keras-aploss manifest sop --root /data/Stanford_Online_Products
        keras-aploss train --data sop.csv --image-size 224 --backbone ResNet50
    """
    from keras_aploss.benchmarks import (
        CLASS_URLS,
        TRAINING_LISTS,
        read_benchmark,
        read_training_list,
    )
    from keras_aploss.datasets import write_manifest

    output = output or pathlib.Path(f"{name}.csv")
    names = (*CLASS_URLS, *TRAINING_LISTS)
    with clear_errors():
        if name not in names:
            raise ValueError(f"Expected one of {', '.join(names)}. Received: {name=}.")
        verbose = int(sys.stdout.isatty())
        if name in TRAINING_LISTS:
            sets = {"all": read_training_list(name, root, verbose=verbose)}
        else:
            benchmark = read_benchmark(name, root, verbose=verbose)
            sets = {"train": benchmark.train, "test": benchmark.test}
        write_manifest(output, sets)
    for split, images in sets.items():
        classes = len(set(images.labels.tolist()))
        click.echo(f"{split}: {len(images.labels):,} images of {classes:,} classes")
        if images.skipped:
            click.echo(f"  left out: {len(images.skipped):,} missing images")
    click.echo(f"Written: {output}")
