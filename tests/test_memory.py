"""The memory of a chunk, added up by hand, and the number of chunks that follows."""

import keras
import pytest
from hypothesis import given, settings, strategies as st
from keras import layers

from keras_aploss import retrieval_model
from keras_aploss.training import activation_bytes, choose_num_chunks, memory


def nested_model(dtype=None):
    """A functional model that calls another, a sequential one, twice."""
    inner = keras.Sequential(
        [
            keras.Input((None, None, 4)),
            layers.Conv2D(6, 3, strides=2, padding="same", dtype=dtype),
            layers.Conv2D(4, 1, dtype=dtype),
        ]
    )
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 1, dtype=dtype)(images)
    x = layers.Add(dtype=dtype)([inner(x), inner(x)])
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, layers.Dense(7, dtype=dtype)(x))


# Of 8 x 10 pixels: the first convolution; twice the inner ones; the sum; the vectors.
NUMBERS = 80 * 4 + 2 * (20 * 6 + 20 * 4) + 20 * 4 + 4 + 7


@pytest.mark.parametrize(
    ("policy", "size"),
    [("float32", 4), ("mixed_float16", 2), ("mixed_bfloat16", 2), ("float64", 8)],
)
def test_the_bytes_are_those_of_all_outputs(policy, size):
    assert activation_bytes(nested_model(policy), (8, 10, 3)) == NUMBERS * size


class Positive(layers.Layer):
    def call(self, inputs):
        return inputs > 0


def test_each_layer_counts_with_its_own_dtype():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, dtype="mixed_bfloat16"),
            layers.UnitNormalization(dtype="float32"),
            Positive(dtype="float32"),
        ]
    )
    assert activation_bytes(model, (6,)) == 5 * 2 + 5 * 4 + 5 * 1


def test_the_model_stays_as_it_is():
    model = nested_model()
    weights, config = len(model.weights), model.get_config()
    activation_bytes(model, (8, 8, 3))
    assert (len(model.weights), model.get_config()) == (weights, config)


def test_the_retrieval_model_grows_with_the_area():
    model = retrieval_model(units=8)
    small, large = (activation_bytes(model, (n, n, 3)) for n in (64, 128))
    assert large == pytest.approx(4 * small, rel=0.01)
    # At a stride of two and four at least these maps are kept.
    assert small > 4 * (32 * 32 * 32 + 16 * 16 * 64)


ONE_MIB = keras.Sequential(
    [keras.Input((2**18,)), layers.Activation("relu", dtype="float32")]
)
GIB_OF_AN_IMAGE = memory.OVERHEAD * 2**-10


def chunks_of(batch_size, images, num_devices=1):
    """The chunks for a memory that holds the activations of so many images."""
    gib = (images + 0.01) * GIB_OF_AN_IMAGE
    shape = (2**18,)
    return choose_num_chunks(ONE_MIB, shape, batch_size, gib, num_devices=num_devices)


@pytest.mark.parametrize(
    ("batch_size", "images", "num_devices", "expected"),
    [
        (64, 64, 1, 1),
        (64, 63, 1, 2),
        (64, 16, 1, 4),
        (64, 15, 1, 8),  # five would do but do not divide it
        (64, 1, 1, 64),
        (60, 25, 1, 3),
        (14, 5, 1, 7 - 4),  # three do, and nothing below six divides 14
        (17, 5, 1, 4),
        (64, 16, 4, 1),
        (64, 15, 4, 2),
        (64, 8, 2, 4),
        (63, 16, 2, 2),  # what two devices cannot share is for others to refuse
    ],
)
def test_the_least_number_that_divides_the_batch(
    batch_size, images, num_devices, expected
):
    assert chunks_of(batch_size, images, num_devices) == expected


@pytest.mark.parametrize("memory_gib", [1e300, float("inf")])
def test_without_a_bound_on_memory_one_chunk_is_enough(memory_gib):
    assert choose_num_chunks(ONE_MIB, (2**18,), 64, memory_gib) == 1
    with pytest.raises(ValueError, match="memory_gib=nan"):
        choose_num_chunks(ONE_MIB, (2**18,), 64, float("nan"))


def test_an_image_that_does_not_fit_alone_is_told_what_it_needs():
    with pytest.raises(ValueError, match=r"Expected memory_gib >= 0\.0015.*one image"):
        chunks_of(64, 0)


@settings(deadline=None, max_examples=50)
@given(
    share=st.integers(1, 200),
    images=st.integers(1, 220),
    num_devices=st.sampled_from([1, 2, 3, 8]),
)
def test_a_chunk_fits_and_more_memory_needs_no_more_chunks(share, images, num_devices):
    batch_size = share * num_devices
    num_chunks = chunks_of(batch_size, images, num_devices)
    assert 1 <= num_chunks <= share
    assert -(-share // num_chunks) <= images
    least = -(-share // images)
    most = 2 * least if num_devices == 1 else share
    assert least <= num_chunks <= most
    dividing = [n for n in range(least, most + 1) if share % n == 0]
    if dividing:
        assert num_chunks == dividing[0]
    else:
        assert num_chunks == least
    # With twice the memory; the number for one image more may be rounded up further.
    assert chunks_of(batch_size, 2 * images + 1, num_devices) <= num_chunks
