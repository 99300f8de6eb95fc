"""TensorFlow starts without a word, unless the user asks for its lines."""

import os
import subprocess
import sys

import pytest
from command_line import ROOT

IMPORT = """
from keras_aploss.cli.quiet import quiet_tensorflow
quiet_tensorflow()
import tensorflow
"""
# A library that writes as TensorFlow's do: while it is loaded, and about devices.
LIBRARY = """
import os, types
os.write(2, b"loaded\\n")
def list_physical_devices():
    os.write(2, b"no device\\n")
config = types.SimpleNamespace(list_physical_devices=list_physical_devices)
"""


def run_python(code, folder, **environment):
    """What a fresh process wrote to stderr."""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith("TF_")}
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    ).stderr


@pytest.fixture
def library(tmp_path):
    (tmp_path / "tensorflow.py").write_text(LIBRARY)
    return tmp_path


def test_lines_of_the_import_and_of_the_search_for_devices_are_hidden(library):
    code = f"{IMPORT}\nimport os; os.write(2, b'later')"
    assert run_python(code, library) == "later"


def test_a_level_of_the_user_is_kept(library):
    code = (
        f"{IMPORT}\nimport os; os.write(2, os.environ['TF_CPP_MIN_LOG_LEVEL'].encode())"
    )
    assert run_python(code, library, TF_CPP_MIN_LOG_LEVEL="0") == "loaded\n0"


def test_an_import_that_fails_shows_what_it_wrote(library):
    with open(library / "tensorflow.py", "a") as file:
        file.write("raise ImportError('of another machine')")
    shown = run_python(IMPORT, library)
    assert shown.startswith("loaded\nTraceback")
    assert shown.endswith("ImportError: of another machine\n")
    (library / "tensorflow.py").unlink()


@pytest.mark.slow
def test_operations_and_compilation_by_tensorflow_are_quiet(tmp_path):
    """CUDA, oneDNN and XLA have their lines at the import and at the first use."""
    code = f"""{IMPORT}
double = tensorflow.function(lambda x: x @ x, jit_compile=True)
assert float(double(tensorflow.ones((2, 2)))[0, 0]) == 2
"""
    assert run_python(code, tmp_path) == ""
