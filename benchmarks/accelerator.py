"""What benchmarks need on a machine that has a GPU and JAX, and no TensorFlow."""

import shutil
import subprocess
import sys
import types
from importlib import util
from pathlib import Path


def without_tensorflow() -> None:
    """Make the parts of the package that need no TensorFlow importable without it.

    Importing `keras_aploss` imports all of its public names, and reading images needs
    TensorFlow. Its losses, layers, models, samplers and trainers do not: import them
    by their modules.
    """
    if util.find_spec("tensorflow") is None:
        package = sys.modules["keras_aploss"] = types.ModuleType("keras_aploss")
        package.__path__ = [str(Path(__file__).parents[1] / "keras_aploss")]


def accelerator_memory() -> list[float] | None:
    """MiB in use and their peak on JAX's first accelerator; None on a CPU."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    names = "bytes_in_use", "peak_bytes_in_use"
    return [stats[name] / 2**20 for name in names] if stats else None


def accelerator_name() -> str | None:
    """What NVIDIA's driver calls the GPU; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    names = shown.stdout.splitlines() if shown.returncode == 0 else []
    return " and ".join(names) or None
