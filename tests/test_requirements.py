"""The packages that `setup.cfg` asks for work together."""

import configparser
import pathlib
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

SETUP = pathlib.Path(__file__).parents[1] / "setup.cfg"


def required():
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    lines = setup["options"]["install_requires"].split("\n")
    return {one.name: one.specifier for one in map(Requirement, filter(None, lines))}


def test_where_tensorboard_needs_pkg_resources_setuptools_has_it():
    """TensorFlow 2.16 to 2.20 take TensorBoard 2.16 to 2.20, which import it."""
    assert required()["tensorboard"].contains("2.20.0")
    assert required()["tensorflow"].contains("2.20.0")
    assert required()["setuptools"].contains("81.0.0")
    assert not required()["setuptools"].contains("82.0.0")


@pytest.mark.slow
def test_the_command_of_tensorboard_starts():
    command = [sys.executable, "-m", "tensorboard.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
