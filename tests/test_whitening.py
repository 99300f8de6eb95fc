"""Whitening of stored embeddings, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from keras_aploss.embeddings import (
    load_embeddings,
    read_whitening,
    unit_length,
    whiten_embeddings,
    whitening_kernel,
)
from keras_aploss.layers import PCAWhitening

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 3


@pytest.fixture(scope="module")
def pca():
    return PCA().fit(DATA)


def test_full_whitening_is_that_of_scikit_learn(pca):
    kernel = whitening_kernel(pca.components_, pca.explained_variance_, power=0.5)
    expected = PCA(whiten=True).fit_transform(DATA)
    np.testing.assert_allclose((DATA - pca.mean_) @ kernel, expected, atol=1e-5)
    whitened = whiten_embeddings(DATA, (pca.mean_, kernel))
    np.testing.assert_allclose(whitened, unit_length(expected), atol=1e-5)


def test_the_published_power_is_the_default_and_follows_its_formula(pca):
    kernel = whitening_kernel(pca.components_, pca.explained_variance_, units=4)
    expected = pca.transform(DATA)[:, :4] / pca.explained_variance_[:4] ** 0.25
    np.testing.assert_allclose((DATA - pca.mean_) @ kernel, expected, atol=1e-5)


def test_by_hand():
    # The rows are 2 and 4 away from the mean along one axis, of variance 16.
    kernel = whitening_kernel([[0.0, 1.0], [1.0, 0.0]], [16.0, 1.0], power=0.25)
    np.testing.assert_allclose(kernel, [[0, 1], [0.5, 0]])
    whitened = whiten_embeddings(np.array([[2.0, 5.0]]), ([1.0, 1.0], kernel))
    # (4 / 2, 1): of length sqrt(5)
    np.testing.assert_allclose(whitened, [[2 / 5**0.5, 1 / 5**0.5]], rtol=1e-6)


def test_directions_without_variance_are_zeroed():
    kernel = whitening_kernel(np.eye(3), [4.0, 1e-9, 0.0], power=0.5)
    np.testing.assert_array_equal(kernel, [[0.5, 0, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_a_layer_learnt_from_a_mapped_file(tmp_path, power):
    np.save(tmp_path / "e.npy", DATA.astype(np.float32))
    embeddings = load_embeddings(tmp_path / "e.npy")
    layer = PCAWhitening(units=3, power=power)
    layer.adapt(embeddings)
    whitened = whiten_embeddings(embeddings, layer)
    by_layer = np.asarray(layer(np.array(embeddings)))
    np.testing.assert_allclose(whitened, unit_length(by_layer), atol=1e-5)
    fitted = PCA().fit(DATA)
    kernel = whitening_kernel(
        fitted.components_, fitted.explained_variance_, power=power, units=3
    )
    expected = whiten_embeddings(DATA, (fitted.mean_, kernel))
    signs = np.sign((expected * whitened).sum(axis=0))
    np.testing.assert_allclose(whitened, expected * signs, atol=1e-4)


@pytest.mark.parametrize("block_size", [1, 7, 200, 1000])
def test_blocks_change_nothing_in_memory_or_in_a_file(tmp_path, block_size):
    whitening = RNG.normal(size=6), RNG.normal(size=(6, 4))
    expected = whiten_embeddings(DATA, whitening)
    out = tmp_path / "whitened.npy"
    for written in (None, out):
        actual = whiten_embeddings(DATA, whitening, out=written, block_size=block_size)
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["whitened.npy"]


def test_a_file_may_be_replaced_by_its_own_whitening(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, DATA.astype(np.float32))
    embeddings = load_embeddings(path)
    expected = whiten_embeddings(np.array(embeddings), (np.zeros(6), np.eye(6)))
    after = whiten_embeddings(embeddings, (np.zeros(6), np.eye(6)), out=path)
    np.testing.assert_array_equal(after, expected)


def test_an_embedding_that_is_the_mean_stays_zeros():
    whitened = whiten_embeddings(np.array([[1.0, 2.0]]), ([1.0, 2.0], np.eye(2)))
    np.testing.assert_array_equal(whitened, [[0, 0]])


def test_a_failure_leaves_no_file_and_spares_the_old_one(tmp_path):
    out = tmp_path / "whitened.npy"
    np.save(out, np.ones((1, 1)))
    data = DATA.copy()
    data[150, 2] = np.nan
    with pytest.raises(ValueError, match="row 150"):
        whiten_embeddings(data, (np.zeros(6), np.eye(6)), out=out, block_size=50)
    assert [path.name for path in tmp_path.iterdir()] == ["whitened.npy"]
    assert np.load(out).shape == (1, 1)


@pytest.mark.parametrize(
    ("components", "variance", "options", "message"),
    [
        (np.eye(2), [1.0], {}, r"shapes \(2, 2\) and \(1,\)"),
        (np.eye(2), [1.0, 2.0], {}, "descending order"),
        (np.eye(2), [0.0, 0.0], {}, "descending order"),
        (np.eye(2), [np.nan, 0.0], {}, "descending order"),
        (np.eye(2), [2.0, 1.0], {"power": 1.5}, "power=1.5"),
        (np.eye(2), [2.0, 1.0], {"units": 3}, "units=3"),
        (np.eye(2), [2.0, 1.0], {"units": 0}, "units=0"),
    ],
)
def test_statistics_that_make_no_kernel(components, variance, options, message):
    with pytest.raises(ValueError, match=message):
        whitening_kernel(components, variance, **options)


@pytest.mark.parametrize(
    ("whitening", "message"),
    [
        (PCAWhitening(), "adapt"),
        (None, "NoneType"),
        ((np.zeros(3), np.eye(3)), "6 units"),
        ((np.zeros(6), np.ones((6, 2)) * np.inf), "NaN or infinity"),
    ],
)
def test_whitenings_that_do_not_fit(whitening, message):
    with pytest.raises(ValueError, match=message):
        whiten_embeddings(DATA, whitening)


def test_whitening_files(tmp_path):
    rng = np.random.default_rng(3)
    components = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    variance = np.array([4.0, 2.0, 1.0, 0.5])
    kernel = whitening_kernel(components, variance, power=0.5)
    path = tmp_path / "pca.npz"
    np.savez(path, mean=np.ones(4), components=components, explained_variance=variance)
    mean, actual = read_whitening(path, power=0.5)
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(actual, kernel)
    np.savez(path, mean=np.ones(4), kernel=kernel)
    np.testing.assert_array_equal(read_whitening(path)[1], kernel)
    training = RNG.normal(size=(50, 4)).astype("float32")
    np.save(tmp_path / "train.npy", training)
    learnt = read_whitening(tmp_path / "train.npy", power=0.5)
    whitened = learnt(training)
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(4), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.npz", {"mean": np.ones(4)}),
        ("a.npz", {"kernel": np.ones((4, 4))}),
        ("a.npz", {"mean": np.ones(1), "kernel": np.array([{}])}),
        ("a.npz", b"PK\x03\x04 cut short"),
        ("a.pkl", b"nothing"),
        ("gone.npz", None),
    ],
)
def test_mistakes_in_whitening_files(tmp_path, name, contents):
    path = tmp_path / name
    if isinstance(contents, dict):
        np.savez(path, **contents)
    elif contents:
        path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"mean and kernel \(or mean"):
        read_whitening(path)
