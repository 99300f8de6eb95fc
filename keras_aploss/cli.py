"""The command line: `keras-aploss train`, `evaluate` and `export`."""

import contextlib
import dataclasses
import logging
import pathlib
import re
import sys
import time
from collections.abc import Mapping

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_aploss import __version__
from keras_aploss.callbacks import RetrievalEvaluation, evaluate_embeddings
from keras_aploss.export import export_saved_model
from keras_aploss.runs import (
    RunReport,
    RunSettings,
    choose_test_set,
    pixel_embeddings,
    read_image_sets,
    train_run,
    write_evaluation,
)

SHOWN = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}


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
    default="saved_models",
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
                    f"those of its `settings.json`. Received: {sorted(given)}."
                )
            settings, run_dir = RunSettings.load(resume / "settings.json"), resume
        else:
            settings = RunSettings.load(config) if config else RunSettings()
            settings = dataclasses.replace(settings, **given)
            run_dir = run_dir or _new_run_dir(settings)
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
        click.echo(
            f"\nInterrupted. {run_dir}/last.keras is the model after the last finished "
            f"epoch.\nGo on with:  keras-aploss train --resume {run_dir}"
        )
        sys.exit(130)
    _print_metrics(report.metrics, "Exact metrics on classes never seen in training")
    _print_next_steps(report, settings, time.monotonic() - started)


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
        if data:
            settings = dataclasses.replace(settings, data=data)
        network = keras.saving.load_model(path, compile=False)
        sets = read_image_sets(settings, verbose=1)
        if split:
            if split not in sets:
                raise ValueError(
                    f"Expected one of the splits {sorted(sets)}. Received: {split!r}."
                )
            chosen = sets[split], None
        else:
            chosen = choose_test_set(sets)
        if chosen is None:
            raise ValueError(
                "Expected a split named test, or query and gallery. Received: "
                f"{sorted(sets)}. Choose one with `--split`."
            )
        images, queries = chosen
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
        click.echo(f"{len(images.skipped)} files could not be read and are left out.")
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
        name = settings.name or pathlib.Path(settings.data).stem
        version = export_saved_model(
            keras.saving.load_model(path, compile=False),
            output or f"saved_models/{name}",
            image_size=settings.image_size,
        )
    click.echo(f"Exported to {version}")


def _find_model(path, image_size):
    """The `.keras` file of a run folder or of a path, and the settings of its run."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        path = path / "best.keras"
    if path.suffix != ".keras" or not path.exists():
        raise ValueError(
            "Expected a run folder that holds `best.keras`, or a `.keras` file. "
            f"Received: {str(path)!r}."
        )
    if (folder / "settings.json").exists():
        settings = RunSettings.load(folder / "settings.json")
    elif image_size:
        settings = RunSettings()
    else:
        raise ValueError(
            f"Expected `--image-size`: {str(path)!r} lies in no run folder that tells "
            "with which size it was trained."
        )
    if image_size:
        settings = dataclasses.replace(settings, image_size=image_size)
    return path, settings


def _new_run_dir(settings):
    name = settings.name or pathlib.Path(settings.data).stem
    return pathlib.Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


@contextlib.contextmanager
def _clear_errors():
    """Show a `ValueError`, which says what to do, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _print_metrics(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in SHOWN.values():
        table.add_column(heading, justify="right")
    for name, metrics in rows.items():
        style = "bold" if name in ("after training", "model") else None
        table.add_row(name, *(f"{metrics[key]:.3f}" for key in SHOWN), style=style)
    console = Console()
    console.print()
    console.print(table)


def _print_next_steps(report: RunReport, settings: RunSettings, seconds: float) -> None:
    folder = report.folder
    minutes = f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    lines = [
        f"Done in {minutes}. The run folder is {folder}:",
        f"  {folder}/evaluation/rankings.png   unseen queries, before and after",
        f"  {folder}/curves.png                loss and metrics of each epoch",
        f"  {folder}/best.keras                the model with the best mAP",
    ]
    if report.saved_model:
        lines.append(f"  {report.saved_model}   the SavedModel for TensorFlow Serving")
    lines += [
        "",
        "Next:",
        f"  tensorboard --logdir {folder}/tensorboard",
        f"  keras-aploss evaluate {folder} --data PHOTOS --report report",
        "    (PHOTOS: your images, one sub-folder per class)",
    ]
    if report.saved_model:
        model = report.saved_model.parent.resolve()
        lines += [
            f"  docker run -p 8501:8501 -v {model}:/models/{model.name} \\",
            f"    -e MODEL_NAME={model.name} tensorflow/serving",
        ]
    # A long path must stay one word, to be copied.
    click.echo("\n" + re.sub(r" +\n", "\n", "\n".join(lines)))


if __name__ == "__main__":
    main()
