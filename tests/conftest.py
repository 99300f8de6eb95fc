"""What the tests share: a run that takes seconds, made once; what runs where."""

import pathlib

import keras
import processes
import pytest

import keras_aploss

# Losses and layers run on every backend of Keras, multistage training on TensorFlow and
# JAX; the rest needs TensorFlow.
MULTISTAGE = {
    "test_chunks.py",
    "test_multistage.py",
    "test_reading.py",
    "test_trainer.py",
}
ON_TORCH = {
    "test_average_precision.py",
    "test_metrics.py",
    "test_blocks.py",
    "test_classes.py",
    "test_distances.py",
    "test_histogram.py",
    "test_layers.py",
    "test_listwise.py",
    "test_tie_aware.py",
    "test_triplet.py",
}
ALL = {path.name for path in pathlib.Path(__file__).parent.glob("test_*.py")}
READ = {"test_replacement.py", "test_sampler.py"}
HERE = {"tensorflow": ALL, "jax": ON_TORCH | MULTISTAGE | READ, "torch": ON_TORCH}
collect_ignore = sorted(ALL - HERE[keras.backend.backend()])
# Helpers of one test that import PyTorch, which the extra `test` does not install.
collect_ignore.append("torch_network.py")
# Runs in TensorFlow 2.15, by `tox -e addons`.
collect_ignore.append("addons")
# A server of the tests, of the messages of the extra `serving`.
collect_ignore.append("model_server.py")

# XLA compiles each case of these for seconds: of them, some stand for all.
COMPILED = {"test_multistage.py", "test_trainer.py"}
FAST = ("dropout-xla-3", "chunk[3-xla]", "at_once[xla-5]")
LONG_ON_TENSORFLOW = ("adamw", "checkpoints_and_validation", "xla")
# Each takes many seconds, and another case of the test stands for it, or another test:
# for the quick start and the example of `train_run`, the run that the tests share, a
# model that `fit` trains, and the smoke run of the gate.
STOOD_FOR = (
    "test_quickstart",
    "runs_as_copied[train_run]",
    "read_once_per_pass_in_order_and_two_are_alive[1]",
    "read_once_per_pass_in_order_and_two_are_alive[5]",
    "an_error_in_load_surfaces_and_the_next_fit_goes_on[1]",
    "an_error_in_load_surfaces_and_the_next_fit_goes_on[4]",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow what takes long and is stood for by another test.

    Examples of public names are left to `test_architecture.py`, which runs them as a
    user copies them.
    """
    if any(item.path.name == "test_architecture.py" for item in items):
        items[:] = [
            item
            for item in items
            if not isinstance(item, pytest.DoctestItem)
            or item.name.rpartition(".")[2] not in keras_aploss.__all__
        ]
    on_jax = keras.backend.backend() == "jax"
    is_slow = _is_slow_on_jax if on_jax else _is_slow_on_tensorflow
    stood_for = set()
    for item in reversed(items):  # of numbers of cases, the highest come last
        if is_slow(item.path.name, item.nodeid, stood_for):
            item.add_marker(pytest.mark.slow)


def _is_slow_on_tensorflow(file, name, stood_for):
    if file in COMPILED and any(part in name for part in LONG_ON_TENSORFLOW):
        return not any(part in name for part in FAST)
    if any(part in name for part in STOOD_FOR):
        return True
    test, _, case = name.partition("[")
    if file not in MULTISTAGE or "graph" not in case:
        return False
    is_slow = test in stood_for
    stood_for.add(test)
    return is_slow


def _is_slow_on_jax(file, name, *_):
    if file in COMPILED:
        return not any(part in name for part in ("adamw", *FAST))
    return any(part in name for part in STOOD_FOR)


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    processes.end_all()


TINY = {
    "num_landmarks": 6,
    "num_test_landmarks": 4,
    "views_per_landmark": 4,
    "image_size": 16,
    "units": 8,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "epochs": 3,
    # So high that the mAP falls again: the best epoch is not the last.
    "learning_rate": 0.01,
    "seed": 2,
}


@pytest.fixture(scope="session")
def tiny_settings():
    """`RunSettings` of a run that takes seconds."""
    return keras_aploss.RunSettings(**TINY)


@pytest.fixture(scope="session")
def finished_run(tiny_settings, tmp_path_factory):
    """The report of an unbroken run; its folder is not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    return keras_aploss.train_run(
        tiny_settings, root / "run", export_to=root / "saved_models", verbose=0
    )
