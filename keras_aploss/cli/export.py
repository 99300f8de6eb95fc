"""`keras-aploss export`: a trained model as a SavedModel, with all a server needs."""

import pathlib

import click

from keras_aploss.benchmarks import read_whitening
from keras_aploss.cli.models import load_encoder, training_of
from keras_aploss.cli.options import read_scales, scales_option
from keras_aploss.cli.output import clear_errors, serving_command
from keras_aploss.embeddings import mean_and_kernel
from keras_aploss.images import MAX_PIXELS
from keras_aploss.runs import can_warm_up, export_version, read_evaluation


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option(
    "--output", help="Folder of the versions; by default saved_models/ and the name."
)
@click.option("--image-size", type=int, help="By default that of the run.")
@scales_option
@click.option(
    "--whitening",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Whiten the embeddings: an .npz of mean and kernel (or of a PCA), or an .npy "
    "of embeddings of other images, to learn from.",
)
@click.option(
    "--whitening-power", default=0.25, show_default=True, help="Of the variances."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    show_default=True,
    help="Refuse images of more pixels, before they are decoded.",
)
@click.option(
    "--warmup/--no-warmup",
    default=None,
    help="Requests that a server answers before it is ready; by default if the extra "
    "`serving` is installed.",
)
def export(
    model, output, image_size, scales, whitening, whitening_power, max_pixels, warmup
):
    """Export MODEL, a run folder or a `.keras` or `.pt` file, for TensorFlow Serving.

    The next version is written below OUTPUT, with its card, README.md. It takes the
    bytes of image files. `models.config`, `batching.config` and `docker-compose.yml`
    are written beside the versions if they are missing, and never changed. MODEL may
    also be a version of a SavedModel, to be written again for another image size.

    \b
    Examples:
        keras-aploss export runs/landmarks --output saved_models/landmarks
        keras-aploss export runs/landmarks --scales 1,0.7071,0.5
    """
    with clear_errors():
        scales = read_scales(scales)
        encoder, settings = load_encoder(model, image_size)
        path = pathlib.Path(output or f"saved_models/{settings.model_name}")
        if whitening is not None:
            whitening = read_whitening(whitening, power=whitening_power)
            whitening = mean_and_kernel(whitening)
        if warmup is None and not can_warm_up():
            click.echo(
                "Without warm-up requests; to have them: "
                'pip install "keras_aploss[serving]"'
            )
        run, evaluation = _run_of(model)
        version, written = export_version(
            encoder,
            path,
            image_size=settings.image_size,
            max_pixels=max_pixels,
            scales=scales,
            whitening=whitening,
            settings=run,
            evaluation=evaluation,
            warm_up=warmup,
        )
    click.echo(f"Exported to {version}")
    if written:
        click.echo(f"Beside it: {', '.join(file.name for file in written)}")
    click.echo(f"Serve it:  {serving_command(path)}")


def _run_of(model):
    """The settings and the figures of the run, as far as MODEL is of one."""
    settings = training_of(model)
    if settings is None:
        return None, None
    folder = model if model.is_dir() else model.parent
    # The figures are those of `model.keras`, not of the best or an unfinished epoch.
    measured = folder / "model.keras"
    is_measured = measured.exists() and model in (folder, measured)
    return settings, read_evaluation(folder) if is_measured else None
