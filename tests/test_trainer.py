"""`fit` of the trainer is `fit` of the encoder, to rounding."""

import zipfile

import keras
import numpy as np
import pytest
from encoders import batch_of
from gradients import BACKEND, slow_on_jax
from keras import layers, ops

from keras_aploss import APLoss, MultistageTrainer

SLOW = pytest.mark.slow
ON_JAX = BACKEND == "jax"
# XLA compiles a training step of TensorFlow for half a minute.
JIT = [False, pytest.param(True, marks=SLOW)] if BACKEND == "tensorflow" else [True]


@pytest.fixture(autouse=True)
def only_where_it_trains(request):
    if BACKEND == "torch" and request.function is not test_pytorch_is_refused:
        pytest.skip("trains on TensorFlow and JAX")


def test_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="TensorFlow or JAX") as caught:
        MultistageTrainer(encoder_of(), 2)
    assert "backend()='torch'" in str(caught.value)


def encoder_of(seed=0, unit=True):
    """L2 of a kernel, a frozen layer in the middle, 4 units."""
    keras.utils.set_random_seed(seed)
    frozen = layers.Dense(5, "tanh")
    encoder = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.05)),
            frozen,
            layers.Dense(4),
            *[layers.UnitNormalization()] * unit,
        ]
    )
    frozen.trainable = False
    return encoder


class Batches(keras.utils.PyDataset):
    """Three batches of 12, with weights of the images unless they are left out."""

    def __init__(self, weighted=True, targets=False, size=12, steps=3):
        super().__init__()
        self.weighted, self.targets, self.size = weighted, targets, size
        self.steps = steps

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        x, y = batch_of(self.size, 6, seed=step)
        rng = np.random.default_rng(step)
        if self.targets:
            y = rng.normal(size=(self.size, 4)).astype("float32")
        weights = rng.uniform(0.5, 2, self.size).astype("float32")
        return (x, y, weights) if self.weighted else (x, y)


def adamw():
    return keras.optimizers.AdamW(
        keras.optimizers.schedules.ExponentialDecay(0.02, 1, 0.7),
        weight_decay=0.1,
        clipnorm=0.05,
        epsilon=1e-3,  # tiny gradients are rounding, which Adam would divide by itself
    )


def sgd():
    return keras.optimizers.SGD(
        0.1, momentum=0.8, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2
    )


def arrays(variables):
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def assert_same_weights(a, b, rtol=1e-5):
    weights, others = arrays(a.weights), arrays(b.weights)
    # Biases start at 0, where the rounding of a gradient shows most.
    largest = max(np.abs(other).max() for other in others)
    for x, y in zip(weights, others, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * largest)


def fitted(
    model,
    optimizer,
    jit=ON_JAX,
    epochs=1,
    loss=APLoss,
    data=None,
    **arguments,
):
    """The history of `fit`, in the order of the batches."""
    model.compile(optimizer(), loss(), jit_compile=jit)
    data = Batches() if data is None else data
    return model.fit(data, epochs=epochs, shuffle=False, verbose=0, **arguments).history


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("optimizer", [sgd, pytest.param(adamw, marks=SLOW)])
def test_weights_and_losses_are_those_of_plain_fit(optimizer, jit):
    plain = encoder_of()
    expected = fitted(plain, optimizer)
    moved = np.abs(arrays(plain.weights)[0] - arrays(encoder_of().weights)[0]).max()
    assert moved > 0.01
    for num_chunks in (1, 12) if optimizer is sgd else (5,):
        trainer = MultistageTrainer(encoder_of(), num_chunks)
        history = fitted(trainer, optimizer, jit)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
        assert_same_weights(trainer.encoder, plain)
        # A frozen layer keeps every bit.
        pairs = trainer.encoder.layers[1].weights, encoder_of().layers[1].weights
        for a, b in zip(*map(arrays, pairs), strict=True):
            np.testing.assert_array_equal(a, b)


@slow_on_jax
def test_dropout_in_fit_draws_the_same_numbers_in_both_passes():
    def encoder():
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [keras.Input((6,)), layers.Dropout(0.5, seed=2), layers.Dense(4)]
        )

    data = Batches(weighted=False, targets=True)
    plain = encoder()
    # In one chunk, dropout is that of the plain encoder.
    expected = fitted(plain, sgd, loss=keras.losses.MeanSquaredError, data=data)
    trainer = MultistageTrainer(encoder(), 1)
    history = fitted(trainer, sgd, loss=keras.losses.MeanSquaredError, data=data)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert_same_weights(trainer.encoder, plain)
    states = trainer.encoder, plain
    seeds = [arrays(model.non_trainable_variables) for model in states]
    assert seeds[0]
    np.testing.assert_array_equal(*seeds)


@slow_on_jax
def test_metrics_are_those_of_plain_fit():
    histories = []
    for model in (encoder_of(unit=False), MultistageTrainer(encoder_of(unit=False), 5)):
        model.compile(sgd(), "mse", metrics=["mae"], weighted_metrics=["mse"])
        data = Batches(targets=True)
        histories.append(model.fit(data, shuffle=False, verbose=0).history)
    assert set(histories[0]) == {"loss", "mae", "mse"}
    assert histories[1].keys() == histories[0].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)


class Break(keras.callbacks.Callback):
    """Stops training after two epochs, as a lost machine would."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise InterruptedError


@SLOW
def test_checkpoints_and_validation_in_fit_and_a_run_that_is_resumed(tmp_path):
    unbroken = MultistageTrainer(encoder_of(), 5)
    path = tmp_path / "model.keras"
    validation = Batches(size=9, steps=1)
    history = fitted(
        unbroken,
        adamw,
        epochs=3,
        callbacks=[keras.callbacks.ModelCheckpoint(path)],
        validation_data=validation,
    )
    loaded = keras.models.load_model(path)
    assert_same_weights(loaded.encoder, unbroken.encoder, rtol=0)
    plain = unbroken.encoder
    plain.compile(loss=APLoss())
    assert plain.evaluate(validation, verbose=0) == pytest.approx(
        history["val_loss"][-1], rel=1e-5
    )
    for _ in range(2):
        resumed = MultistageTrainer(encoder_of(), 5)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [backup, Break()] if _ == 0 else [backup]
        try:
            again = fitted(resumed, adamw, epochs=3, callbacks=callbacks)
        except InterruptedError:
            assert _ == 0
    assert len(again["loss"]) == 1
    assert_same_weights(resumed.encoder, unbroken.encoder, rtol=1e-6)


@slow_on_jax
def test_what_is_saved_goes_on_as_if_it_had_not_been(tmp_path):
    trainer = MultistageTrainer(encoder_of(), 5)
    fitted(trainer, adamw)
    trainer.save(tmp_path / "trainer.keras")
    trainer.encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "trainer.keras")
    state, same = (
        arrays(trainer.optimizer.variables),
        arrays(loaded.optimizer.variables),
    )
    assert len(state) > 6
    for a, b in zip(same, state, strict=True):
        np.testing.assert_array_equal(a, b)
    for model in (trainer, loaded):
        model.fit(Batches(), shuffle=False, verbose=0)
    assert_same_weights(loaded.encoder, trainer.encoder, rtol=1e-6)
    with zipfile.ZipFile(tmp_path / "encoder.keras") as file:
        config = file.read("config.json").decode()
    for word in ("ultistage", "keras_aploss", "num_chunks", "AdamW"):
        assert word not in config
    assert type(keras.models.load_model(tmp_path / "encoder.keras")) is keras.Sequential


def test_config_makes_the_same_trainer():
    trainer = MultistageTrainer(
        encoder_of(), 5, image_shape=(4, 4, 3), image_dtype="float32", name="chunked"
    )
    same = MultistageTrainer.from_config(trainer.get_config())
    assert same.get_config() == trainer.get_config()
    assert (same.num_chunks, same.image_shape, same.image_dtype, same.name) == (
        5,
        (4, 4, 3),
        "float32",
        "chunked",
    )
    assert same.encoder.get_config() == trainer.encoder.get_config()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_half_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        trainer = MultistageTrainer(encoder_of(), 5)
        start = arrays(trainer.encoder.weights)
        history = fitted(trainer, adamw, epochs=2)
    finally:
        keras.config.set_dtype_policy(before)
    scaled = isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert np.all(np.isfinite(history["loss"]))
    after = arrays(trainer.encoder.weights)
    assert after[0].dtype == "float32"
    assert all(np.all(np.isfinite(value)) for value in after)
    assert np.abs(after[0] - start[0]).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chunks": 0}, "num_chunks=0"),
        ({"num_chunks": 2.0}, "num_chunks=2.0"),
        ({"encoder": len}, "encoder="),
        ({"load": len}, "image_shape=None"),
        ({"load": "file", "image_shape": (4, 4, 3)}, "load='file'"),
        ({"load": len, "image_shape": (4, None, 3)}, "None"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    arguments = {"encoder": encoder_of(), "num_chunks": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        MultistageTrainer(**arguments)


def test_an_encoder_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="to be a built"):
        MultistageTrainer(keras.Sequential([layers.Dense(4)]), 2)
