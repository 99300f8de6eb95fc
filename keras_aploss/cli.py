"""The command line: `keras-aploss train`, `evaluate` and `export`."""

import contextlib
import dataclasses
import logging
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping

import click
import numpy as np
import rich.box
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_aploss import __version__
from keras_aploss.callbacks import RetrievalEvaluation, evaluate_embeddings
from keras_aploss.export import export_saved_model
from keras_aploss.runs import (
    RunReport,
    RunSettings,
    pixel_embeddings,
    train_run,
    write_evaluation,
)
from keras_aploss.runs.checkpoint import encoder_of, load_model
from keras_aploss.runs.devices import check_run_dir_is_shared
from keras_aploss.runs.images import read_evaluation_set

SHOWN = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}
DEFAULT_EXPORT = "saved_models"
INTERRUPTED = 130  # the exit code of shells for Ctrl-C


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Train image-retrieval models by optimizing Average Precision itself.

    \b
    A first run, on the embedded data set, takes about three minutes on two cores:
        keras-aploss train
    Then on your own images, one sub-folder per class:
        keras-aploss train --data photos/ --image-size 128
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("keras_aploss.runs").setLevel(logging.INFO)


def _settings_options(command):
    """Add an option for each field of `RunSettings`, in their order."""
    for field in reversed(dataclasses.fields(RunSettings)):
        name = "--" + field.name.replace("_", "-")
        if field.type is bool:
            name += f"/--no-{name[2:]}"
        option = click.option(
            name,
            type=field.type,
            default=field.default,
            show_default=field.default != "",
            help=field.metadata["help"],
        )
        command = option(command)
    return command


@main.command(context_settings={"max_content_width": 100})
@_settings_options
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="Read settings from a JSON file, such as `settings.json` of another run; "
    "options on the command line win.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Run folder; by default `runs/` and the name and time.",
)
@click.option(
    "--resume",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    metavar="RUN_DIR",
    help="Go on with a run that was stopped or killed, with its own settings.",
)
@click.option(
    "--export-to",
    default=DEFAULT_EXPORT,
    show_default=True,
    help="Folder of the exported models; '' exports nothing.",
)
@click.pass_context
def train(context, config, run_dir, resume, export_to, **options):
    """Train a retrieval model, measure it on unseen classes, and export it.

    \b
    Examples:
        keras-aploss train
        keras-aploss train --data photos/ --image-size 128 --epochs 30
        keras-aploss train --data list.csv --backbone ResNet50 --weights imagenet
        keras-aploss train --data photos/ --batch-size 4096 --memory-gib 12
        keras-aploss train --config runs/landmarks/settings.json --seed 1
        keras-aploss train --resume runs/landmarks
    """
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    with _clear_errors():
        if resume:
            if given or config or run_dir:
                raise ValueError(
                    "Expected `--resume` without other settings: a run goes on with "
                    "those of its `settings.json`. Received also: "
                    f"{_as_options([*given, *_names(config=config, run_dir=run_dir)])}."
                )
            run_dir, path = resume, resume / "settings.json"
            settings = RunSettings.load(path) if path.exists() else RunSettings()
        else:
            settings = RunSettings.load(config) if config else RunSettings()
            settings = dataclasses.replace(settings, **given)
            if pathlib.Path(settings.data).exists():
                # The run can then be evaluated from any working directory.
                data = str(pathlib.Path(settings.data).absolute())
                settings = dataclasses.replace(settings, data=data)
            check_run_dir_is_shared(run_dir)
            run_dir = run_dir or _new_run_dir(settings)
        click.echo(f"Reading {settings.data}; the run folder is {run_dir}")
        started = time.monotonic()
        report = train_run(
            settings,
            run_dir,
            resume=bool(resume),
            export_to=export_to or None,
            # Progress bars are for people: in a log, a line per epoch.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if report.interrupted:
        _print_interrupted(report, settings, export_to)
        sys.exit(INTERRUPTED)
    if not report.metrics:  # of several hosts the first one measures
        return
    _print_metrics(report.metrics, "Exact metrics on classes never seen in training")
    _print_next_steps(report, time.monotonic() - started)


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("--data", help="As for `train`; by default the data of the run.")
@click.option("--split", help="Split to evaluate; by default the test set.")
@click.option("--image-size", type=int, help="By default that of the run.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Write figures and pictures of the best and worst queries into this folder.",
)
def evaluate(model, data, split, image_size, report):
    """Measure MODEL, a run folder or a `.keras` file, on a set of images.

    Each image queries all the others; in a CSV file with the splits query and gallery,
    the former query the latter.

    \b
    Examples:
        keras-aploss evaluate runs/landmarks
        keras-aploss evaluate runs/landmarks --data photos/ --report report/
    """
    with _clear_errors():
        path, settings = _find_model(model, image_size)
        network = encoder_of(load_model(path))
        images, queries = read_evaluation_set(
            settings, data, split, verbose=int(sys.stdout.isatty())
        )
        evaluation = RetrievalEvaluation(images.images, images.labels, queries=queries)
        evaluation.set_model(network)
        snapshot = evaluation.evaluate(-1)
        pixels = evaluate_embeddings(
            pixel_embeddings(images.images), images.labels, queries
        )
        metrics = {"raw pixels": pixels.metrics, "model": snapshot.result.metrics}
        written = []
        if report:
            written = write_evaluation(
                report, images, snapshot, metrics=metrics, queries=queries
            )
    count = int(np.isfinite(snapshot.result.average_precision).sum())
    _print_metrics(metrics, f"Exact metrics of {count:,} queries")
    if images.skipped:
        click.echo(f"\nLeft out: {len(images.skipped)} files or classes, such as")
        for path, reason in images.skipped[:3]:
            click.echo(f"  {path}: {reason}")
    if written:
        click.echo("\nWritten:")
    for file in written:
        click.echo(f"  {file}")


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option(
    "--output", help="Folder of the versions; by default saved_models/ and the name."
)
@click.option("--image-size", type=int, help="By default that of the run.")
def export(model, output, image_size):
    """Export MODEL, a run folder or a `.keras` file, for TensorFlow Serving.

    The next version is written below OUTPUT. It takes the bytes of image files.

    \b
    Example:
        keras-aploss export runs/landmarks --output saved_models/landmarks
    """
    with _clear_errors():
        path, settings = _find_model(model, image_size)
        version = export_saved_model(
            encoder_of(load_model(path)),
            output or f"saved_models/{settings.model_name}",
            image_size=settings.image_size,
        )
    click.echo(f"Exported to {version}")


def _find_model(path, image_size):
    """The `.keras` file of a run folder or of a path, and the settings of its run."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        finished = path / "model.keras"
        path = finished if finished.exists() else path / "last.keras"
    if path.suffix != ".keras" or not path.exists():
        raise ValueError(
            "Expected a run folder that holds `model.keras`, or a `.keras` file. "
            f"Received: {str(path)!r}."
        )
    if (folder / "settings.json").exists():
        settings = RunSettings.load(folder / "settings.json")
    elif image_size:
        settings = RunSettings(name=path.stem)
    else:
        raise ValueError(
            f"Expected `--image-size`: {str(path)!r} lies in no run folder that tells "
            "with which size it was trained."
        )
    if image_size is not None:
        settings = dataclasses.replace(settings, image_size=image_size)
    return path, settings


def _new_run_dir(settings):
    now = time.strftime("%Y%m%d-%H%M%S")
    return pathlib.Path("runs") / f"{settings.model_name}-{now}"


@contextlib.contextmanager
def _clear_errors():
    """Show what the user can mend, or has caused, without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        # Within the training the report tells of it: here nothing was begun.
        click.echo("\nInterrupted: nothing was written.", err=True)
        sys.exit(INTERRUPTED)
    except MemoryError as error:
        raise click.ClickException(
            "There is not enough memory: take fewer or smaller images, a smaller "
            "batch, or leave the files on the disk with `--cache-gib 0`."
        ) from error
    except (ValueError, OSError, RuntimeError, tf.errors.OpError) as error:
        message = str(error).strip() or type(error).__name__
        # Of TensorFlow's errors the first line tells what, the others where.
        if isinstance(error, tf.errors.OpError):
            message = message.splitlines()[0]
        raise click.ClickException(message) from error


def _print_interrupted(report: RunReport, settings: RunSettings, export_to: str):
    command = f"keras-aploss train --resume {shlex.quote(str(report.folder))}"
    if export_to != DEFAULT_EXPORT:
        command += f" --export-to {shlex.quote(export_to)}"
    model = report.folder / "last.keras"
    state = f"{report.epochs} of {settings.epochs} epochs are finished"
    if report.epochs:
        state += f"; {model} is the model after the last of them"
    click.echo(f"\nInterrupted: {state}.\nGo on with:  {command}")


def _print_metrics(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in SHOWN.values():
        table.add_column(heading, justify="right")
    for name, metrics in rows.items():
        style = "bold" if name in ("after training", "model") else None
        table.add_row(name, *(f"{metrics[key]:.3f}" for key in SHOWN), style=style)
    console = Console()
    # Not the title of the table, which would wrap at its width.
    console.print(f"\n[bold]{title}[/bold]")
    console.print(table)


def _print_next_steps(report: RunReport, seconds: float) -> None:
    folder = report.folder
    files = {
        folder / "evaluation" / "rankings.png": "unseen queries, before and after",
        folder / "curves.png": "loss and metrics of each epoch",
        folder / "model.keras": "the trained model",
    }
    if report.saved_model:
        files[report.saved_model] = "the SavedModel for TensorFlow Serving"
    width = max(len(str(file)) for file in files)
    quoted = shlex.quote(str(folder))
    lines = [
        f"Done in {int(seconds) // 60} min {int(seconds) % 60:02d} s. Look at:",
        *(f"  {file!s:{width}}  {what}" for file, what in files.items()),
        "",
        "Next:",
        f"  tensorboard --logdir {quoted}/tensorboard",
        f"  keras-aploss evaluate {quoted} --data PHOTOS --report report",
        "    (PHOTOS: your images, one sub-folder per class)",
    ]
    if report.saved_model:
        model = report.saved_model.parent.resolve()
        name = model.name
        lines += [
            f"  docker run -p 8501:8501 -e MODEL_NAME={name} \\",
            f"    -v {shlex.quote(f'{model}:/models/{name}')} tensorflow/serving",
        ]
    click.echo("\n".join(lines))


def _names(**values):
    return [name for name, value in values.items() if value]


def _as_options(names):
    return ", ".join("--" + name.replace("_", "-") for name in names)


if __name__ == "__main__":
    main()
