"""`keras-aploss export`: a trained model as a SavedModel."""

import pathlib

import click

from keras_aploss.cli.models import load_encoder
from keras_aploss.cli.output import clear_errors
from keras_aploss.export import export_saved_model


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option(
    "--output", help="Folder of the versions; by default saved_models/ and the name."
)
@click.option("--image-size", type=int, help="By default that of the run.")
def export(model, output, image_size):
    """Export MODEL, a run folder or a `.keras` or `.pt` file, for TensorFlow Serving.

    The next version is written below OUTPUT. It takes the bytes of image files. MODEL
    may also be a version of a SavedModel, to be written again for another image size.

    \b
    Example:
        keras-aploss export runs/landmarks --output saved_models/landmarks
    """
    with clear_errors():
        encoder, settings = load_encoder(model, image_size)
        version = export_saved_model(
            encoder,
            output or f"saved_models/{settings.model_name}",
            image_size=settings.image_size,
        )
    click.echo(f"Exported to {version}")
