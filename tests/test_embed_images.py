import threading
import time

import keras
import numpy as np
import pytest

from keras_aploss.embeddings.embedding import embed


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((6, 6, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.HeNormal(0))(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 3), np.uint8)


class LazyImages:
    """Reads slowly, the earlier images most slowly, and remembers what was read."""

    def __init__(self, images):
        self.images, self.threads, self.read = images, set(), []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        assert type(index) is int
        time.sleep(0.002 * (index % 3 == 0))
        self.threads.add(threading.current_thread())
        self.read.append(index)
        return self.images[index]


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
@pytest.mark.parametrize("workers", [1, 3])
def test_in_order_for_every_kind_of_sequence(model, batch_size, workers):
    expected = np.asarray(model(IMAGES, training=False))
    lazy = LazyImages(IMAGES)
    for images in (IMAGES, list(IMAGES), lazy):
        actual = embed(model, images, batch_size=batch_size, workers=workers)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert sorted(lazy.read) == list(range(11))
    assert threading.main_thread() not in lazy.threads
    assert not any(thread.is_alive() for thread in lazy.threads)


class SeesBatches(keras.Model):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def call(self, images):
        self.shapes.append(tuple(images.shape))
        return keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2))


def test_the_model_is_traced_for_one_shape_only():
    model = SeesBatches()
    actual = embed(model, IMAGES, batch_size=4)
    assert {shape[0] for shape in model.shapes} == {4}
    np.testing.assert_allclose(actual, IMAGES.mean((1, 2)), rtol=1e-5)


def test_reads_one_batch_ahead_and_no_further():
    lazy = LazyImages(IMAGES)
    most_ahead = []

    class Watches(keras.Model):
        def predict_on_batch(self, x):
            most_ahead.append(len(lazy.read))
            return np.zeros((len(x), 2))

    embed(Watches(), lazy, batch_size=2, workers=4)
    assert all(read <= 2 * (i + 2) for i, read in enumerate(most_ahead))
    assert len(most_ahead) == 6


def test_half_precision_model_gives_float32():
    layer = keras.layers.GlobalAveragePooling2D(dtype="mixed_float16")
    assert embed(keras.Sequential([layer]), IMAGES).dtype == np.float32


def test_leaves_batch_normalisation_alone(model):
    before = [np.array(w) for w in model.weights]
    embed(model, IMAGES, batch_size=4)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_verbose_shows_progress(model, capsys):
    embed(model, IMAGES, batch_size=4, verbose=1)
    assert "3/3" in capsys.readouterr().out
    embed(model, IMAGES, batch_size=4)
    assert not capsys.readouterr().out


def test_unequal_shapes_name_the_image(model):
    images = [*IMAGES[:7], np.zeros((6, 5, 3), np.uint8), *IMAGES[7:]]
    with pytest.raises(ValueError, match=r"images\[7\]\.shape=\(6, 5, 3\)"):
        embed(model, images, batch_size=3, workers=2)


def test_a_reading_error_reaches_the_caller_and_ends_the_threads(model):
    class Broken(LazyImages):
        def __getitem__(self, index):
            if index == 5:
                raise OSError("photo_5.jpg is truncated")
            return super().__getitem__(index)

    images = Broken(IMAGES)
    with pytest.raises(OSError, match=r"photo_5\.jpg"):
        embed(model, images, batch_size=2, workers=2)
    assert not any(thread.is_alive() for thread in images.threads)


def test_nan_embeddings():
    images = np.ones((9, 2, 2, 3), np.float32)
    images[[4, 6]] = np.nan
    model = keras.Sequential([keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"2 of 9 rows .* first at index 4"):
        embed(model, images, batch_size=4)


def test_model_must_return_a_matrix():
    identity = keras.Sequential([keras.layers.Rescaling(1.0)])
    with pytest.raises(ValueError, match=r"output=\(4, 6, 6, 3\)"):
        embed(identity, IMAGES, batch_size=4)
    inputs = keras.Input((6, 6, 3))
    flat = keras.layers.Flatten()(inputs)
    with pytest.raises(ValueError, match="output=list"):
        embed(keras.Model(inputs, [flat, flat]), IMAGES)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"workers": 0}, {"images": IMAGES[:0]}]
)
def test_errors(model, arguments):
    with pytest.raises(ValueError, match="at least one image"):
        embed(model, **{"images": IMAGES, **arguments})
