"""What tests read from a run folder, to compare two of them."""

import csv

import keras
import numpy as np


def read_weights(path):
    """All that a `.keras` file holds, the state of its optimizer included."""
    model = keras.saving.load_model(path)
    # The encoder of a model that is trained in chunks has none.
    optimizer = getattr(model, "optimizer", None)
    state = optimizer.variables if optimizer else []
    return [np.asarray(weight) for weight in [*model.weights, *state]]


def assert_same_weights(path, other):
    weights, others = read_weights(path), read_weights(other)
    assert len(weights) == len(others)
    for weight, same in zip(weights, others, strict=True):
        np.testing.assert_array_equal(weight, same)


def history(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
