"""GeM pooling and PCA whitening against NumPy and scikit-learn."""

import itertools

import keras
import numpy as np
import pytest
from gradients import WIDEST, on_tensorflow, run, slow_on_jax, value_and_gradients
from hypothesis import given, settings, strategies as st
from sklearn.decomposition import PCA

from keras_aploss import GeneralizedMeanPooling2D, PCAWhitening


def power_mean(x, p, epsilon=1e-6):
    x = np.maximum(x.astype("float64"), epsilon)
    return (x**p).mean(axis=(1, 2)) ** (1 / p)


@slow_on_jax
@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    p=st.floats(1, 30),
    per_channel=st.booleans(),
    seed=st.integers(0, 9),
)
def test_gem_is_the_power_mean(height, width, p, per_channel, seed):
    x = np.random.default_rng(seed).exponential(size=(2, height, width, 3)) * 10
    layer = GeneralizedMeanPooling2D(p, per_channel=per_channel)
    np.testing.assert_allclose(run(layer, x), power_mean(x, p), rtol=1e-4)
    assert layer.p.shape == ((3,) if per_channel else (1,))


def test_gem_lies_between_average_and_maximum():
    x = np.random.default_rng(0).random((4, 3, 3, 5)).astype("float32")
    average = run(GeneralizedMeanPooling2D(1), x)
    maximum = run(GeneralizedMeanPooling2D(2000), x)
    np.testing.assert_allclose(average, x.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maximum, x.max(axis=(1, 2)), rtol=2e-3)


@given(p=st.floats(1, 10), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=10)
def test_signed_gem_pools_both_signs(p, seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, 4, 5)) * 10
    layer = GeneralizedMeanPooling2D(p, signed=True)
    expected = power_mean(np.maximum(x, 0), p) - power_mean(np.maximum(-x, 0), p)
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run(layer, -x), -run(layer, x), rtol=1e-5)
    plain = GeneralizedMeanPooling2D(p)
    np.testing.assert_allclose(run(layer, abs(x)), run(plain, abs(x)), rtol=1e-5)
    average = run(GeneralizedMeanPooling2D(1, signed=True), x)
    np.testing.assert_allclose(average, x.mean(axis=(1, 2)), atol=1e-4)


def test_gem_channels_first():
    x = np.random.default_rng(1).random((2, 4, 5, 3)).astype("float32")
    for per_channel in (False, True):
        layer = GeneralizedMeanPooling2D(
            per_channel=per_channel, data_format="channels_first"
        )
        np.testing.assert_allclose(
            run(layer, np.moveaxis(x, -1, 1)), power_mean(x, 3), rtol=1e-5
        )
        assert layer.compute_output_shape((2, 3, 4, 5)) == (2, 3)


@pytest.mark.parametrize("p", [1.0, 3.0, 50.0])
@pytest.mark.parametrize("x", ["zeros", "huge", "some zeros"])
def test_gem_gradients_are_finite(x, p):
    value = np.zeros((2, 3, 3, 4), "float32")
    if x == "huge":
        value += 1e30
    if x == "some zeros":
        value[0, 1] = 5.0
    total, gradients = value_and_gradients(
        total_of(GeneralizedMeanPooling2D(p)), value, np.array([p], "float32")
    )
    assert np.isfinite(total)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if x == "zeros":
        assert not np.any(gradients[0])


def total_of(layer):
    """The sum of the layer's outputs as a function of its inputs and of its `p`."""
    layer.build((None, None, None, 4))
    return lambda x, p: keras.ops.sum(layer.stateless_call([p], [], x)[0])


def test_gradient_to_p_equals_finite_differences():
    x = np.random.default_rng(2).exponential(size=(3, 4, 4, 4)).astype("float32")
    _, (_, gradient) = value_and_gradients(
        total_of(GeneralizedMeanPooling2D()), x, np.array([3.0], "float32")
    )
    difference = (power_mean(x, 3 + 1e-4) - power_mean(x, 3 - 1e-4)).sum() / 2e-4
    assert gradient[0] == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16"])
def test_gem_neither_underflows_nor_overflows_in_16_bits(dtype):
    x = np.array([1e-3, 2e-3, 0, 300]).reshape(2, 1, 2, 1)
    layer = GeneralizedMeanPooling2D(3.0, dtype=dtype)
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == dtype.removeprefix("mixed_")
    output = run(lambda x: keras.ops.cast(layer(x), "float32"), x)
    np.testing.assert_allclose(output, power_mean(x, 3), rtol=1e-2)


def test_gem_learns_p_but_not_below_one():
    x = np.random.default_rng(3).exponential(size=(8, 3, 3, 2)).astype("float32")
    model = keras.Sequential([GeneralizedMeanPooling2D(1.5)])
    model.compile(keras.optimizers.SGD(10.0), "mse")
    model.fit(x, np.zeros((8, 2)), epochs=3, verbose=0)  # smaller p, smaller output
    assert float(model.layers[0].p[0]) == 1.0
    frozen = GeneralizedMeanPooling2D(trainable_p=False)
    frozen.build((None, 3, 3, 2))
    assert frozen.trainable_weights == []


def whitened(data, **arguments):
    layer = PCAWhitening(**arguments)
    layer.adapt(data)
    return np.array(layer(data.astype("float32")))


def correlated(rows=500, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, size)) @ rng.normal(size=(size, size)) + 5.0


@pytest.mark.parametrize("units", [None, 12, 5])
def test_full_whitening_is_that_of_scikit_learn_up_to_sign(units):
    data = correlated()
    expected = PCA(n_components=units, whiten=True).fit_transform(data)
    actual = whitened(data, units=units)
    sign = np.sign((actual * expected).sum(axis=0))
    np.testing.assert_allclose(actual * sign, expected, atol=2e-4)


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
def test_power_divides_by_that_power_of_the_explained_variance(power):
    data = correlated(seed=1)
    pca = PCA().fit(data)
    expected = pca.transform(data) / pca.explained_variance_**power
    actual = whitened(data, power=power)
    sign = np.sign((actual * expected).sum(axis=0))
    np.testing.assert_allclose(actual * sign, expected, rtol=1e-3, atol=1e-3)


def test_adapt_streams_batches_of_any_size():
    data = correlated(rows=1000)
    whole, streamed = PCAWhitening(), PCAWhitening()
    whole.adapt(data)
    cuts = np.cumsum([0, 1, 2, 0, 97, 300, 600])
    streamed.adapt(data[a:b] for a, b in itertools.pairwise(cuts))
    np.testing.assert_allclose(streamed.kernel, whole.kernel, atol=1e-5)


@on_tensorflow
def test_adapt_takes_a_data_set_of_tensorflow():
    import tensorflow as tf

    data, layer = correlated(rows=1000), PCAWhitening()
    layer.adapt(tf.data.Dataset.from_tensor_slices(data).batch(64))
    np.testing.assert_allclose(layer.mean, data.mean(axis=0), rtol=1e-6)


def test_moments_keep_their_digits_when_the_mean_is_large():
    data = np.random.default_rng(4).normal(size=(20_000, 3)) * [1, 0.1, 0.01] + 1e4
    layer = PCAWhitening(power=0.5)
    layer.adapt(data)
    rotated = (data - data.mean(axis=0)) @ np.array(layer.kernel, "float64")
    np.testing.assert_allclose(rotated.std(axis=0, ddof=1), 1, rtol=1e-4)


def test_components_without_variance_are_zero():
    data = correlated(rows=200, size=4)
    deficient = np.concatenate([data, data[:, :2] * 2, np.ones((200, 1))], axis=1)
    actual = whitened(deficient)
    assert actual.shape == (200, 7)
    np.testing.assert_allclose(actual.std(axis=0, ddof=1)[:4], 1, rtol=1e-3)
    np.testing.assert_array_equal(actual[:, 4:], 0)
    few = whitened(correlated(rows=3, size=10))
    assert np.isfinite(few).all()
    np.testing.assert_array_equal(few[:, 2:], 0)


def test_whitening_is_the_identity_until_adapted_and_lives_in_the_keras_file(tmp_path):
    data = correlated(size=6).astype("float32")
    model = keras.Sequential([keras.Input((6,)), PCAWhitening(4, name="whitening")])
    np.testing.assert_allclose(model(data), data[:, :4])
    assert model.trainable_weights == []
    model.get_layer("whitening").adapt(data)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded(data), model(data))
    assert not np.allclose(model(data), data[:, :4])


@pytest.mark.parametrize(
    "layer",
    [
        GeneralizedMeanPooling2D(
            2.0,
            per_channel=True,
            signed=True,
            epsilon=1e-4,
            data_format="channels_first",
        ),
        PCAWhitening(3, 0.25, epsilon=1e-4, trainable=True),
    ],
)
def test_config_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 0.5}, "`p`"),
        ({"p": float("nan")}, "`p`"),
        ({"epsilon": 0}, "epsilon"),
        ({"data_format": "NHWC"}, "data_format"),
    ],
)
def test_wrong_gem_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedMeanPooling2D(**arguments)


@pytest.mark.skipif(WIDEST != "float64", reason="needs float64")
def test_gem_is_exact_in_float64():
    x = np.random.default_rng(5).exponential(size=(2, 3, 3, 2))
    layer = GeneralizedMeanPooling2D(dtype="float64")
    np.testing.assert_allclose(layer(x), power_mean(x, 3), rtol=1e-12)


def test_gem_refuses_a_map_without_pixels():
    with pytest.raises(ValueError, match="larger images"):
        GeneralizedMeanPooling2D()(np.zeros((1, 0, 0, 2)))


def test_gem_refuses_other_ranks():
    with pytest.raises(ValueError, match="ndim=4"):
        GeneralizedMeanPooling2D()(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"units": 0}, "units"), ({"power": 2}, "power"), ({"epsilon": -1}, "epsilon")],
)
def test_wrong_whitening_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PCAWhitening(**arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((5, 3)), "equal rows"),
        (np.zeros((1, 3)), "two rows"),
        (np.zeros((0, 3)), "two rows"),
        (np.zeros(3), "shape"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "shape"),
        (np.array([[0.0, 1], [np.nan, 0]]), "row 1"),
    ],
)
def test_data_that_cannot_be_whitened_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        PCAWhitening().adapt(data)


def test_units_above_the_size_and_rows_of_another_size_are_named():
    with pytest.raises(ValueError, match="units=9"):
        PCAWhitening(9).adapt(correlated(size=4))
    layer = PCAWhitening()
    layer.build((None, 5))
    with pytest.raises(ValueError, match="rows of 4"):
        layer.adapt(correlated(size=4))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a setting of JAX")
def test_whitening_asks_a_gpu_for_all_bits():
    import jax

    layer = PCAWhitening()
    layer.build((None, 3))
    program = jax.make_jaxpr(lambda x: layer.call(x))(np.zeros((2, 3), "float32"))
    (product,) = [e for e in program.eqns if e.primitive.name == "dot_general"]
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}
