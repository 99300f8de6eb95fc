import numpy as np
import pytest

from keras_aploss.report import similarity_histogram


def dense_histogram(similarity, centers):
    delta = centers[0] - centers[1]
    similarity = np.clip(similarity, centers[-1], centers[0])
    weight = np.maximum(1 - np.abs(similarity[:, None] - centers) / delta, 0)
    return weight.sum(0)


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 1.0)])
def test_histogram_equals_the_kernel_of_the_loss(limits):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(30, 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.append(rng.integers(0, 4, 25), [-1] * 5)
    centers, positives, negatives = similarity_histogram(
        embeddings, labels, num_bins=7, similarity_range=limits
    )
    similarity = embeddings @ embeddings.T
    relevance = labels[:, None] == labels
    other, query = ~np.eye(30, dtype=bool), (labels >= 0)[:, None]
    expected = dense_histogram(similarity[relevance & other & query], centers)
    np.testing.assert_allclose(positives, expected, atol=1e-3)
    expected = dense_histogram(similarity[~relevance & query], centers)
    np.testing.assert_allclose(negatives, expected, atol=1e-3)


def test_histogram_of_many_images_uses_some_queries():
    embeddings = np.tile([[1.0, 0.0]], (50, 1))
    _, positives, _ = similarity_histogram(embeddings, np.zeros(50, int), max_queries=4)
    assert positives.sum() == 4 * 49
