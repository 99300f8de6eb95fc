"""Output that commands share: errors without traceback, tables of metrics."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping

import click

SHOWN = {"map": "mAP", "recall_at_1": "recall@1", "map_at_r": "MAP@R"}
INTERRUPTED = 130  # the exit code of shells for Ctrl-C


def show_any_name() -> None:
    """Let names of files that are not UTF-8 be printed, as `files.as_text` shows them.

    A terminal whose encoding lacks a character would else end the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="backslashreplace")


def in_one_line(text):
    """Escape characters that would break a line or control the terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Show errors that a user can mend, or has caused, without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        # An interrupted training is reported by its command: here nothing was begun.
        click.echo("\nInterrupted: nothing was written.", err=True)
        sys.exit(INTERRUPTED)
    except MemoryError as error:
        raise click.ClickException(
            "There is not enough memory: use fewer or smaller images, a smaller "
            "batch, or leave the files on the disk with `--cache-gib 0`."
        ) from error
    except UnicodeEncodeError as error:  # such as of a folder that TensorFlow writes to
        raise click.ClickException(
            f"Expected a name in UTF-8. Received: {error.object!r}. Rename it, or "
            "choose another."
        ) from error
    except (
        ImportError,
        ValueError,
        OSError,
        RuntimeError,
        *_tensorflow_errors(),
    ) as error:
        message = str(error).strip() or type(error).__name__
        # In TensorFlow's errors the first line says what happened, the others where.
        if isinstance(error, _tensorflow_errors()):
            message = message.splitlines()[0]
        raise click.ClickException(message) from error


def _tensorflow_errors():
    """The base class of TensorFlow's errors, if it was imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (tensorflow.errors.OpError,) if tensorflow else ()


@contextlib.contextmanager
def resuming_explained():
    """Say how much is written, and how to resume, when something ends the work."""
    try:
        yield
    except KeyboardInterrupt as error:
        notes = _say_notes(error, "\nInterrupted: ")
        if not notes:
            raise
        sys.exit(INTERRUPTED)
    except Exception as error:
        _say_notes(error)
        raise


def _say_notes(error, event=""):
    notes = getattr(error, "__notes__", [])
    for note in notes:
        click.echo(f"{event}{note}", err=True)
    return notes


def print_embedded(output, shape, skipped):
    """Say what was written: a file of `shape`, its list, and what was left out."""
    count, units = shape
    click.echo(f"{output}: {count:,} embeddings of {units:,} units")
    click.echo(f"{output}.csv: the image of each")
    print_skipped(f"{output}.skipped.csv", skipped)


def print_skipped(path, skipped):
    """Say how many files were left out and listed in a file, and show some."""
    if skipped:
        click.echo(f"{path}: {len(skipped):,} files left out, such as")
    for name, reason in skipped[:3]:
        click.echo(f"  {name}: {reason}")


def as_command(context: click.Context) -> str:
    """The command line of a context, quoted for a shell.

    Not `sys.argv`, which is that of another program if Python called this one.
    """
    words = context.command_path.split()
    words[0] = "keras-aploss"  # also for `python -m keras_aploss`
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
    """Print a table with a row of metrics for each name; the trained model's in bold.

    Args:
        rows: metrics by name.
        title: printed above the table.
        shown: headings of the metrics to print.
    """
    import rich.box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for name, metrics in rows.items():
        style = "bold" if name in ("after training", "model") else None
        table.add_row(name, *(f"{metrics[key]:.3f}" for key in shown), style=style)
    console = Console()
    # Not the title of the table, which would wrap at its width.
    console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
    console.print(table)
