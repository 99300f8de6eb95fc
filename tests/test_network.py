"""The network of a run: the batch, the chunks, the precision of the model."""

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, strategies as st

from keras_aploss import MultistageTrainer, RunSettings
from keras_aploss.runs import network
from keras_aploss.runs.data import read_run_data
from keras_aploss.runs.devices import Devices
from keras_aploss.runs.network import (
    batch_shape,
    build_encoder,
    compile_model,
    in_chunks,
    make_sampler,
    num_chunks_of,
)

ONE = Devices(0, 1, 1, "one device")


@given(
    classes=st.integers(2, 300), images=st.integers(2, 64), found=st.integers(2, 400)
)
def test_a_batch_keeps_its_size_whatever_the_classes(classes, images, found):
    settings = RunSettings(classes_per_batch=classes, images_per_class=images)
    size = settings.batch_size
    assert size == classes * images
    shape = batch_shape(settings, found)
    if found >= classes:
        assert shape == (classes, images)
        return
    dividing = [n for n in range(2, found + 1) if size % n == 0]
    if dividing:  # more images of fewer classes, never the reverse
        assert shape == (max(dividing), size // max(dividing))
    else:
        assert shape == (found, images)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(RunSettings(units=4))


def test_the_number_of_chunks_is_that_of_the_settings(encoder):
    settings = RunSettings(classes_per_batch=8, num_chunks=5)
    assert num_chunks_of(settings, encoder, ONE) == 5
    many = dataclasses.replace(settings, num_chunks=1000)
    assert num_chunks_of(many, encoder, ONE) == 64
    # Each device has an image of each chunk at least.
    assert num_chunks_of(many, encoder, ONE._replace(num_devices=8)) == 8


def test_the_automatic_number_of_chunks_follows_the_memory(encoder):
    settings = RunSettings(image_size=64).replace(batch_size=4096)
    counts = [
        num_chunks_of(dataclasses.replace(settings, memory_gib=gib), encoder, ONE)
        for gib in (1.0, 64.0)
    ]
    assert counts == [16, 1]  # the first as in the example of `choose_num_chunks`
    on_four = num_chunks_of(
        dataclasses.replace(settings, memory_gib=1.0),
        encoder,
        ONE._replace(num_devices=4),
    )
    assert on_four == 4
    assert num_chunks_of(RunSettings(), encoder, ONE) == 1


def test_a_batch_that_the_devices_do_not_divide_is_refused(encoder):
    settings = RunSettings(classes_per_batch=5, images_per_class=3)
    with pytest.raises(ValueError, match=r"15 images for 4 devices.*multiple of 4"):
        num_chunks_of(settings, encoder, ONE._replace(num_devices=4))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_encoder_computes_in_the_precision_of_the_settings(policy):
    before = keras.config.dtype_policy().name
    settings = RunSettings(units=4, precision=policy, whitening=True)
    model = build_encoder(settings)
    assert keras.config.dtype_policy().name == before == "float32"
    backbone = model.get_layer("small_resnet")
    convolutions = [
        layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert {layer.dtype_policy.name for layer in convolutions} == {policy}
    assert {variable.dtype for variable in model.variables} == {"float32"}
    # Lengths and whitening in 16 bits would be off by a percent.
    for name in ("embedding", "whitening", "whitened_embedding"):
        assert model.get_layer(name).compute_dtype == "float32"
    embeddings = np.asarray(model(np.full((2, 16, 16, 3), 99, "uint8")))
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_the_global_precision_is_restored_after_an_error(monkeypatch):
    settings = RunSettings(backbone="VGG99", precision="mixed_bfloat16")
    with pytest.raises(ValueError, match="VGG99"):
        build_encoder(settings)
    assert keras.config.dtype_policy().name == "float32"

    seen = []

    def interrupt(*args, **options):
        seen.append(keras.config.dtype_policy().name)
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "retrieval_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_encoder(settings)
    assert seen == ["mixed_bfloat16"]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(("num_chunks", "processes"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_a_model_in_chunks_reads_the_images_of_its_sampler(
    tiny_settings, encoder, num_chunks, processes
):
    settings = dataclasses.replace(tiny_settings, num_chunks=num_chunks, workers=2)
    data = read_run_data(settings)
    samplers = [
        make_sampler(settings, data.train, Devices(i, processes, 2, "two"))
        for i in range(processes)
    ]
    whole = make_sampler(dataclasses.replace(settings, num_chunks=1), data.train, ONE)
    parts = [sampler[0][0] for sampler in samplers]
    model = in_chunks(encoder, settings, samplers[-1])
    if num_chunks == 1:
        assert model is encoder
    else:
        assert isinstance(model, MultistageTrainer)
        assert (model.encoder, model.num_chunks) == (encoder, 3)
        parts = [
            sampler.load(part) for sampler, part in zip(samplers, parts, strict=True)
        ]
        # A model that was loaded is given the images, too.
        model.load = None
        assert in_chunks(model, settings, samplers[-1]) is model
        np.testing.assert_array_equal(model.load(samplers[-1][0][0]), parts[-1])
    np.testing.assert_array_equal(np.concatenate(parts), whole[0][0])


def test_fewer_classes_than_wanted_keep_the_batch_size(tiny_settings, caplog):
    settings = tiny_settings.replace(batch_size=24, images_per_class=2, num_chunks=1)
    sampler = make_sampler(settings, read_run_data(settings).train, ONE)
    indices = sampler.indices
    assert (indices.classes_per_batch, indices.images_per_class) == (6, 4)
    assert len(sampler[0][1]) == 24
    message = "6 training classes: a batch holds 6 classes and 4 images of each instead"
    assert f"{message} of 12 and 2." in caplog.text


def test_the_learning_rate_warms_up_and_falls_over_all_steps(encoder):
    settings = RunSettings(epochs=4, learning_rate=0.5)
    compile_model(encoder, settings, steps_per_epoch=25)
    rate = encoder.optimizer.learning_rate
    schedule = encoder.optimizer.get_config()["learning_rate"]["config"]
    assert float(rate) == pytest.approx(0.05)
    assert (schedule["warmup_steps"], schedule["decay_steps"]) == (10, 90)
    assert schedule["warmup_target"] == 0.5
