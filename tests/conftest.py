"""What the tests share: a run that takes seconds, made once; what runs where."""

import dataclasses
import pathlib
import shutil

import keras
import processes
import pytest

import keras_aploss

# Losses and layers run on every backend of Keras, samplers and multistage training on
# TensorFlow and JAX; the rest needs TensorFlow.
ON_JAX = {
    "test_chunks.py",
    "test_multistage.py",
    "test_reading.py",
    "test_replacement.py",
    "test_sampler.py",
    "test_trainer.py",
}
ON_TORCH = {
    "test_average_precision.py",
    "test_metrics.py",
    "test_blocks.py",
    "test_checks.py",
    "test_classes.py",
    "test_distances.py",
    "test_histogram.py",
    "test_layers.py",
    "test_listwise.py",
    "test_tie_aware.py",
    "test_triplet.py",
}
ALL = {path.name for path in pathlib.Path(__file__).parent.glob("test_*.py")}
HERE = {"tensorflow": ALL, "jax": ON_TORCH | ON_JAX, "torch": ON_TORCH}
collect_ignore = sorted(ALL - HERE[keras.backend.backend()])
# Helpers of one test that import PyTorch, which the extra `test` does not install.
collect_ignore.append("torch_network.py")
# Runs in TensorFlow 2.15, by `tox -e addons`.
collect_ignore.append("addons")
# A server of the tests, of the messages of the extra `serving`.
collect_ignore.append("model_server.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave examples of public names to `test_architecture.py`.

    It runs them as a user copies them.
    """
    if any(item.path.name == "test_architecture.py" for item in items):
        items[:] = [
            item
            for item in items
            if not isinstance(item, pytest.DoctestItem)
            or item.name.rpartition(".")[2] not in keras_aploss.__all__
        ]


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


@pytest.fixture
def unfinished_run(finished_run, tiny_settings, tmp_path):
    """Makes the folder of a run that was ended after 0 or 3 of 5 epochs."""

    def make(epochs):
        folder = tmp_path / "unfinished"
        folder.mkdir()
        dataclasses.replace(tiny_settings, epochs=5).save(folder / "settings.json")
        if epochs:
            for name in ("last.keras", "best.keras", "history.csv"):
                shutil.copyfile(finished_run.folder / name, folder / name)
        else:
            model = keras.saving.load_model(finished_run.folder / "last.keras")
            model.optimizer.iterations.assign(0)
            model.save(folder / "last.keras")
            shutil.copyfile(folder / "last.keras", folder / "best.keras")
        return folder

    return make
