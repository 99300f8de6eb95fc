"""`keras-aploss train`: train, measure and export a model."""

import dataclasses
import pathlib
import shlex
import sys
import time

import click

from keras_aploss.cli.options import EXISTING_FOLDER
from keras_aploss.cli.output import (
    INTERRUPTED,
    clear_errors,
    print_metrics,
    serving_command,
)
from keras_aploss.runs import RunSettings

DEFAULT_EXPORT = "saved_models"


_batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=0),
    default=0,
    help="Images in a batch, instead of `--classes-per-batch`: it holds as many "
    "classes as divide it evenly, with `--images-per-class` or more images of each.",
)


def _settings_options(command):
    """Add an option for each field of `RunSettings`, and `--batch-size`."""
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
        if field.name == "images_per_class":
            command = _batch_size_option(command)
        command = option(command)
    return command


@click.command(context_settings={"max_content_width": 100})
@_settings_options
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="Read settings from a JSON file, such as `settings.json` of another run; "
    "command-line options override them.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Run folder; by default runs/NAME-TIME.",
)
@click.option(
    "--resume",
    type=EXISTING_FOLDER,
    metavar="RUN_DIR",
    help="Resume an interrupted run, with its own settings.",
)
@click.option(
    "--export-to",
    default=DEFAULT_EXPORT,
    show_default=True,
    help="Folder of the exported models; '' disables the export.",
)
@click.pass_context
def train(context, config, run_dir, resume, export_to, **options):
    """Train a retrieval model, measure it on its test set, and export it.

    If interrupted, by Ctrl-C or a kill, the run can be resumed with `--resume`.

    \b
    Examples:
        keras-aploss train
        keras-aploss train --data photos/ --image-size 128 --epochs 30
        keras-aploss train --data list.csv --backbone ResNet50 --weights imagenet
        keras-aploss train --data photos/ --batch-size 4096 --memory-gib 12
        keras-aploss train --config runs/landmarks/settings.json --seed 1
        keras-aploss train --data photos/ --backbone runs/landmarks --epochs 3
        keras-aploss train --resume runs/landmarks
    """
    from keras_aploss.runs import is_trained_model, new_run_folder, train_run

    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    with clear_errors():
        if resume:
            if given or config or run_dir:
                raise ValueError(
                    "Expected `--resume` without other settings: a run is resumed with "
                    "those of its `settings.json`. Received also: "
                    f"{_as_options([*given, *_names(config=config, run_dir=run_dir)])}."
                )
            run_dir, path = resume, resume / "settings.json"
            settings = RunSettings.load(path) if path.exists() else RunSettings()
        else:
            settings = RunSettings.load(config) if config else RunSettings()
            settings = settings.replace(**given)
            if pathlib.Path(settings.data).exists():
                # The run can then be evaluated from any working directory.
                data = str(pathlib.Path(settings.data).absolute())
                settings = settings.replace(data=data)
            if is_trained_model(settings.backbone):
                path = str(pathlib.Path(settings.backbone).absolute())
                settings = settings.replace(backbone=path)
            run_dir = run_dir or new_run_folder(settings)
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
    if not report.metrics:  # only the first of several hosts measures
        return
    print_metrics(report.metrics, f"Exact metrics on {report.title}")
    _print_next_steps(report, time.monotonic() - started)


def _print_interrupted(report, settings, export_to):
    command = f"keras-aploss train --resume {shlex.quote(str(report.folder))}"
    if export_to != DEFAULT_EXPORT:
        command += f" --export-to {shlex.quote(export_to)}"
    model = report.folder / "last.keras"
    path = report.folder / "settings.json"
    settings = RunSettings.load(path) if path.exists() else settings
    of_all = f" of {settings.epochs}" if settings.epochs else ""
    state = f"{report.epochs}{of_all} epochs are finished"
    if report.epochs:
        state += f"; {model} is the model after the last of them"
    click.echo(f"\nInterrupted: {state}.\nResume with:  {command}")


def _print_next_steps(report, seconds):
    folder = report.folder
    files = {
        folder / "evaluation" / "index.html": "training curves, figures, queries",
        folder / "model.keras": "the trained model",
    }
    if report.saved_model:
        files[report.saved_model] = "the SavedModel for TensorFlow Serving"
    width = max(len(str(file)) for file in files)
    quoted = shlex.quote(str(folder))
    lines = [
        f"Done in {int(seconds) // 60} min {int(seconds) % 60:02d} s. Results:",
        *(f"  {file!s:{width}}  {what}" for file, what in files.items()),
        "",
        "Next:",
        f"  tensorboard --logdir {quoted}/tensorboard",
        f"  keras-aploss evaluate {quoted} --data PHOTOS --report report",
        "    (PHOTOS: your images, one sub-folder per class)",
    ]
    if report.saved_model:
        lines.append(f"  {serving_command(report.saved_model.parent)}")
    click.echo("\n".join(lines))


def _names(**values):
    return [name for name, value in values.items() if value]


def _as_options(names):
    return ", ".join("--" + name.replace("_", "-") for name in names)
