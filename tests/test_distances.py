"""Distances within a batch, and of some of its images."""

import keras
import numpy as np
import pytest
from gradients import TOLERANCE, WIDEST
from scipy.spatial.distance import cdist

from keras_aploss.losses.distances import METRICS, distances

NAMES = {"L2": "euclidean", "squared-L2": "sqeuclidean", "angular": "cosine"}


def cityblock(x):
    return keras.ops.sum(keras.ops.abs(x[:, None] - x[None, :]), axis=-1)


@pytest.mark.parametrize("metric", [*METRICS, cityblock])
@pytest.mark.parametrize("first", [0, 3])
def test_distances_of_scipy(metric, first):
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(WIDEST)
    x[5] = x[2]
    expected = cdist(x[first : first + 4], x, NAMES.get(metric, "cityblock"))
    found = distances(
        keras.ops.convert_to_tensor(x[first : first + 4]),
        keras.ops.convert_to_tensor(x),
        metric,
        first,
    )
    found = keras.ops.convert_to_numpy(found)
    # Of equal embeddings, the root of what rounding leaves.
    np.testing.assert_allclose(found, expected, atol=np.sqrt(TOLERANCE))
    assert np.abs(found - expected)[expected > 0.1].max() < 10 * TOLERANCE
    own = found[np.arange(4), first + np.arange(4)]
    np.testing.assert_allclose(own, 0, atol=TOLERANCE)
    if metric in ("L2", "squared-L2"):
        np.testing.assert_array_equal(own, 0)


def test_zero_embeddings_have_no_direction():
    x = keras.ops.convert_to_tensor([[0.0, 0.0], [3.0, 4.0]])
    found = keras.ops.convert_to_numpy(distances(x, x, "angular"))
    np.testing.assert_allclose(found, [[1, 1], [1, 0]], atol=1e-6)
