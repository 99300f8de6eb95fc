"""Start TensorFlow without its start-up lines: CUDA, oneDNN, XLA.

`TF_CPP_MIN_LOG_LEVEL` hides information and warnings of its C++ libraries, but it is
read after the libraries are loaded: what they log while they are loaded, and the error
that a machine without GPU causes when TensorFlow looks for one, would still be shown.
So the descriptor of stderr leads elsewhere while TensorFlow is imported and looks for
devices. What a failed import wrote is shown.

A user who has set `TF_CPP_MIN_LOG_LEVEL` gets the lines of that level. Nothing else
changes: oneDNN stays on, and errors of later operations are shown.
"""

import contextlib
import importlib.util
import os
import sys

LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0: all, 1: no information, 2: no warnings, 3: nothing


def quiet_tensorflow() -> None:
    """Hide the start-up lines of TensorFlow, unless it is imported or a level is set.

    It does not import TensorFlow: that takes seconds, and not every command needs it.
    """
    if LEVEL not in os.environ:
        os.environ[LEVEL] = "2"
        if "tensorflow" not in sys.modules:
            sys.meta_path.insert(0, _QuietImport())


class _QuietImport:
    """Entry of `sys.meta_path` that finds TensorFlow once, with a quiet loader."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _execute_quietly(execute, module)
        return spec


def _execute_quietly(execute, module):
    with _stderr_kept_back():
        execute(module)
        module.config.list_physical_devices()


@contextlib.contextmanager
def _stderr_kept_back():
    """Keep back what libraries write to stderr; it is shown if there is an exception.

    The file descriptor is redirected, since C++ libraries know nothing of `sys.stderr`.
    """
    import tempfile

    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(shown, written.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
