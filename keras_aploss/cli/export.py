"""`keras-aploss export`: a trained model as a SavedModel for TensorFlow Serving."""

import pathlib

import click

from keras_aploss.cli.options import (
    image_size_option,
    max_pixels_option,
    model_argument,
    read_scales,
    scales_option,
    whitening_power_option,
)
from keras_aploss.cli.output import clear_errors, serving_command


@click.command()
@model_argument
@click.option("--output", help="Folder of the versions; by default saved_models/NAME.")
@image_size_option
@scales_option
@click.option(
    "--whitening",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Whiten the embeddings: an .npz file with mean and kernel (or a PCA), or an "
    ".npy file of embeddings of other images to learn it from.",
)
@whitening_power_option
@max_pixels_option
@click.option(
    "--warmup/--no-warmup",
    default=None,
    help="Include warm-up requests, which a server runs before it is ready; by default "
    "if the extra `serving` is installed.",
)
@click.option(
    "--unfinished",
    is_flag=True,
    help="Export the model of a run that is not finished: that of its last epoch.",
)
def export(
    model,
    output,
    image_size,
    scales,
    whitening,
    whitening_power,
    max_pixels,
    warmup,
    unfinished,
):
    """Export MODEL as a SavedModel for TensorFlow Serving.

    MODEL is a run folder, a `.keras` or `.pt` file, or a version of a SavedModel, which
    is exported again for another image size.

    The next version number is written below OUTPUT, with its model card, README.md, and
    the settings and the list of images of its run. It takes the bytes of image files.
    `models.config`, `batching.config` and `docker-compose.yml` are written beside the
    versions if they are missing; existing ones are kept.

    The model of a run that is not finished, that of its last whole epoch, is exported
    only with `--unfinished`.

    \b
    Examples:
        keras-aploss export runs/landmarks --output saved_models/landmarks
        keras-aploss export runs/landmarks --scales 1,0.7071,0.5
    """
    from keras_aploss.embeddings import mean_and_kernel, read_whitening
    from keras_aploss.runs import export_version, open_model

    with clear_errors():
        scales = read_scales(scales)
        trained = open_model(model, image_size)
        if not unfinished:
            _require_finished(trained, model)
        path = pathlib.Path(output or f"saved_models/{trained.settings.model_name}")
        if whitening is not None:
            whitening = read_whitening(whitening, power=whitening_power)
            whitening = mean_and_kernel(whitening)
        version, written = export_version(
            trained.encoder,
            path,
            image_size=trained.settings.image_size,
            max_pixels=max_pixels,
            scales=scales,
            whitening=whitening,
            settings=trained.run,
            evaluation=trained.evaluation,
            epochs=trained.epochs,
            is_finished=trained.is_finished,
            split_file=trained.split_file,
            warm_up=warmup,
        )
    click.echo(f"Exported to {version}")
    if trained.state:
        click.echo(f"It is the model after {trained.state}.")
    if warmup is None and not (version / "assets.extra").exists():
        click.echo(
            "Without warm-up requests; to include them: "
            'pip install "keras_aploss[serving]"'
        )
    if written:
        click.echo(f"Beside it: {', '.join(file.name for file in written)}")
    click.echo(f"Serve it:  {serving_command(path)}")


def _require_finished(trained, model):
    if not trained.is_finished:
        raise ValueError(
            "Expected the model of a finished run, or `--unfinished` to export it as "
            f"it is. Received: {str(model)!r}, {trained.state or 'not finished'}. To "
            "finish a run: keras-aploss train --resume RUN_DIR"
        )
