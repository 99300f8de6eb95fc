"""Images that are read when the turn of their chunk comes: which, when, how many."""

import threading
import time
import weakref

import keras
import numpy as np
import pytest
from gradients import BACKEND
from keras import layers, ops

from keras_aploss import APLoss, MultistageTrainer
from keras_aploss.training.reading import ChunkReader

SHAPE = (3, 3, 3)
PHOTOS = np.random.default_rng(0).integers(0, 255, (12, *SHAPE)).astype("uint8")
LABELS = np.arange(12) // 3
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")


class Photos:
    """`load` of numbers (or paths that end in one), which notes what it does."""

    def __init__(self, failing=()):
        self.calls, self.most, self.failing = [], 0, set(failing)
        self.alive, self.lock = [], threading.Lock()

    def __call__(self, references):
        numbers = np.array([int(reference) for reference in references])
        with self.lock:
            self.calls.append(numbers.tolist())
            if len(self.calls) in self.failing:
                raise OSError("photo 7 is truncated")
            images = PHOTOS[numbers]
            # TensorFlow lets go of an array some time after it has used it.
            deadline = time.monotonic() + 2
            while self.count_alive() > 1 and time.monotonic() < deadline:
                time.sleep(0.005)
            self.alive.append(weakref.ref(images))
            self.most = max(self.most, len(self.alive))
        return images

    def count_alive(self):
        self.alive = [ref for ref in self.alive if ref() is not None]
        return len(self.alive)


def encoder_of(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(4),
            layers.UnitNormalization(),
        ]
    )


def trainer_of(load, num_chunks=3, shape=SHAPE, **arguments):
    trainer = MultistageTrainer(encoder_of(), num_chunks, load=load, image_shape=shape)
    trainer.compile(keras.optimizers.SGD(0.5), APLoss(), **arguments)
    return trainer


def fit(trainer, x, **arguments):
    return trainer.fit(x, LABELS, batch_size=12, shuffle=False, verbose=0, **arguments)


def weights_of(trainer):
    return [ops.convert_to_numpy(weight) for weight in trainer.encoder.weights]


def numbers_of(num_chunks, size=12):
    return [list(range(c, size, num_chunks)) for c in range(num_chunks)]


def test_the_next_chunk_is_read_while_the_present_one_is_computed():
    may_go_on, began = threading.Event(), threading.Event()

    def load(numbers):
        if numbers[0] == 1:
            began.set()
            assert may_go_on.wait(10)
        return PHOTOS[numbers]

    reader = ChunkReader(load, SHAPE, "uint8")
    first = reader.read_chunk(np.arange(12), 0, 3, 1)
    assert began.wait(10)  # and yet the first has been given
    np.testing.assert_array_equal(first, PHOTOS[::3])
    may_go_on.set()
    second = reader.read_chunk(np.arange(12), 1, 3, 1)
    np.testing.assert_array_equal(second, PHOTOS[1::3])


@pytest.mark.parametrize(
    "num_chunks", [3, *[pytest.param(n, marks=pytest.mark.slow) for n in (1, 5)]]
)
def test_each_chunk_is_read_once_per_pass_in_order_and_two_are_alive(num_chunks):
    photos = Photos()
    trainer = trainer_of(photos, num_chunks)
    fit(trainer, np.arange(12))
    # Keras on JAX runs the model once more, to build it: that is traced only.
    assert photos.calls == 2 * numbers_of(num_chunks)
    assert photos.most <= 2
    plain = MultistageTrainer(encoder_of(), num_chunks)
    plain.compile(keras.optimizers.SGD(0.5), APLoss())
    fit(plain, PHOTOS)
    for a, b in zip(weights_of(trainer), weights_of(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@on_tensorflow
def test_paths_are_read_once_per_pass_too():
    photos = Photos()
    trainer = trainer_of(photos)
    paths = np.array([f"{number}" for number in range(12)])
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors((paths, LABELS))
    trainer.fit(data, verbose=0)
    assert photos.calls == 2 * numbers_of(3)


@pytest.mark.parametrize("call", [2, 6])  # in the first pass, and in the second
def test_an_error_in_load_surfaces_and_the_next_fit_goes_on(call):
    photos = Photos(failing=[call])
    trainer = trainer_of(photos)
    with pytest.raises(Exception, match="photo 7 is truncated"):
        fit(trainer, np.arange(12))
    if BACKEND == "jax":
        return  # Keras on JAX holds no weights of any model after an error in `fit`.
    fit(trainer, np.arange(12))
    expected = trainer_of(Photos())
    fit(expected, np.arange(12))
    for a, b in zip(weights_of(trainer), weights_of(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_images_of_another_shape_are_named():
    trainer = trainer_of(lambda numbers: PHOTOS[numbers][:, :2])
    with pytest.raises(Exception, match=r"shape \(4, 3, 3, 3\)") as caught:
        fit(trainer, np.arange(12))
    assert "(4, 2, 3, 3)" in str(caught.value)


@on_tensorflow
def test_xla_on_tensorflow_cannot_read():
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        assert not trainer_of(Photos(), jit_compile=True).jit_compile
    trainer = trainer_of(None, jit_compile=True)
    trainer.load = Photos()  # as for a run that goes on with TensorFlow after JAX
    assert not trainer.jit_compile
    fit(trainer, np.arange(12))


def test_in_inference_references_and_images_give_the_same_and_nothing_is_left():
    photos = Photos()
    trainer = trainer_of(photos)
    expected = trainer.encoder.predict(PHOTOS, verbose=0)
    by_number = trainer.predict(np.arange(12), verbose=0)
    np.testing.assert_allclose(by_number, expected, atol=1e-6)
    assert photos.calls == [list(range(12))]  # fewer than 32: one chunk, read once
    by_image = trainer.predict(PHOTOS, verbose=0)
    np.testing.assert_allclose(by_image, expected, atol=1e-6)
    losses = [trainer.evaluate(x, LABELS, verbose=0) for x in (np.arange(12), PHOTOS)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    deadline = time.monotonic() + 5
    while any(ref() is not None for ref in photos.alive):
        assert time.monotonic() < deadline, "images are kept that nothing will ask for"
        time.sleep(0.01)
