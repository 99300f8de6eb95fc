"""What all commands print alike: errors without traceback, tables of metrics."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Mapping

import click
import rich.box
import tensorflow as tf
from rich.console import Console
from rich.table import Table

SHOWN = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}
INTERRUPTED = 130  # the exit code of shells for Ctrl-C


@contextlib.contextmanager
def clear_errors():
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
    except (ImportError, ValueError, OSError, RuntimeError, tf.errors.OpError) as error:
        message = str(error).strip() or type(error).__name__
        # Of TensorFlow's errors the first line tells what, the others where.
        if isinstance(error, tf.errors.OpError):
            message = message.splitlines()[0]
        raise click.ClickException(message) from error


def as_command(context: click.Context) -> str:
    """The command that a person gave, as one would type it again.

    Not `sys.argv`, which is another program's if Python called this one.
    """
    words = context.command_path.split()
    words[0] = "keras-aploss"  # also where `python -m keras_aploss` was given
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = str(context.params[parameter.name])
        is_option = isinstance(parameter, click.Option)
        words += [parameter.opts[0], value] if is_option else [value]
    return shlex.join(words)


def serving_command(folder: pathlib.Path) -> str:
    """The command that serves the versions in a folder."""
    compose = shlex.quote(str(folder / "docker-compose.yml"))
    return f"docker compose -f {compose} up --detach --wait"


def print_metrics(
    rows: Mapping[str, Mapping[str, float]],
    title: str,
    shown: Mapping[str, str] = SHOWN,
) -> None:
    """Print a row of metrics for each name, the trained model's in bold.

    `shown` gives the headings of the metrics to print.
    """
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for name, metrics in rows.items():
        style = "bold" if name in ("after training", "model") else None
        table.add_row(name, *(f"{metrics[key]:.3f}" for key in shown), style=style)
    console = Console()
    # Not the title of the table, which would wrap at its width.
    console.print(f"\n[bold]{title}[/bold]")
    console.print(table)
