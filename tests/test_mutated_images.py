"""Damaged images of every format: the check, the readers and the served graph agree."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from image_bytes import encode, photo

from keras_aploss.images import decode_contents, decode_image, reason_to_skip
from keras_aploss.serving import decode_batch
from keras_aploss.serving.wire import parse_unreadable_error

MAX_PIXELS = 100_000
GOOD = {
    "JPEG": encode(photo(), "JPEG"),
    "progressive JPEG": encode(photo(), "JPEG", progressive=True),
    "PNG": encode(photo(), "PNG"),
    "PNG with alpha": encode(photo().convert("RGBA"), "PNG"),
    "PNG palette": encode(photo().quantize(8), "PNG", transparency=1),
    "GIF": encode(photo().quantize(16), "GIF", transparency=1),
    "BMP": encode(photo(), "BMP"),
    "BMP palette": encode(photo().quantize(16), "BMP"),
}


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def served(files):
    return decode_batch(files, 16, max_pixels=MAX_PIXELS)


def mutated(contents, rng):
    """A file with some bytes changed, at its start or anywhere, lost or added."""
    contents = bytearray(contents)
    start, stop = sorted(rng.integers(len(contents) + 1, size=2))
    match rng.integers(5):
        case 0:
            return bytes(contents[:stop])
        case 1:
            return bytes(contents[:start] + contents[stop:])
        case 2:
            return bytes(contents + contents[start:stop])
        case 3:
            end = min(len(contents), 200)
        case 4:
            end = len(contents)
    for _ in range(rng.integers(1, 5)):
        contents[rng.integers(end)] = rng.choice([0, 0x7F, 0xFF, rng.integers(256)])
    return bytes(contents)


def decodes(contents):
    try:
        image = decode_image(contents, max_pixels=MAX_PIXELS)
    except tf.errors.InvalidArgumentError:
        return False
    assert 0 < np.prod(image.shape[:2]) <= MAX_PIXELS
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_of_mutated_images_all_say_the_same(name):
    rng = np.random.default_rng([7, *name.encode()])
    files = [mutated(GOOD[name], rng) for _ in range(150)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reasons = [reason_to_skip(contents, MAX_PIXELS, 1) for contents in files]
        good = [decodes(contents) for contents in files]
        for contents, reason, is_good in zip(files, reasons, good, strict=True):
            assert reason or is_good, "passed by the check, and not decoded"
            if not is_good:
                with pytest.raises(ValueError, match=r"\w"):
                    decode_contents(contents, MAX_PIXELS)
    assert 5 < sum(good) < 145  # both kinds are there
    bad = np.flatnonzero(~np.array(good))
    for start in range(0, len(files), 30):
        some = bad[(bad >= start) & (bad < start + 30)] - start
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            served(tf.constant(files[start : start + 30]))
        positions, size = parse_unreadable_error(error.value.message)
        assert (positions, size) == (some.tolist(), 30)
