"""Run the command line: within the test, or as a process of its own."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import click.testing
import numpy as np
import PIL.Image
from processes import started

from keras_aploss import cli

ROOT = pathlib.Path(__file__).parents[1]


def invoke(*args):
    return click.testing.CliRunner().invoke(cli.main, [str(arg) for arg in args])


def succeed(*args):
    """What a command printed that must succeed."""
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*args, code=1):
    """The message of a command that must end with a sentence, not a traceback."""
    result = invoke(*args)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "Error: " in result.stderr
    return " ".join(result.stderr.split())


def read_table(path):
    """The rows of a CSV file that a command wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write_photos(folder, names):
    """Photos of two sizes at these paths; a broken one, and one that is not read."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        size = (40, 30, 3) if number % 2 else (24, 36, 3)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, size, "uint8")).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "other.webp").write_bytes(b"of another format")
    return folder


def start(folder, *args):
    """Start the command line as a user does; its output goes to `output.txt`."""
    with open(folder / "output.txt", "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_aploss", *map(str, args)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            # A job in the background of a script inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    return started(process)


def wait_until(process, condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.005)
