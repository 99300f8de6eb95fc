"""Both ends agree: the message of the graph is the one that the client understands."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_rest_api import NO_LABEL, STATES, answer, server_of

from keras_aploss.serving import decode_batch, wire


@tf.function
def decode_in_a_graph(files):
    return decode_batch(files, 4)


@pytest.mark.parametrize(
    ("bad", "size"), [([1], 2), ([0, 1, 2], 3), ([0, 3, 11], 12), (range(40), 41)]
)
def test_the_message_of_the_graph_is_understood(bad, size):
    png = tf.io.encode_png(np.zeros([4, 4, 3], np.uint8)).numpy()
    files = [b"bad" if i in bad else png for i in range(size)]
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        decode_in_a_graph(tf.constant(files))
    positions, total = wire.parse_unreadable_error(str(raised.value))
    # TensorFlow lists 32 numbers at most.
    assert (positions, total) == (list(bad)[:32], size)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "unreadable bytes, positions unknown",
        "unreadable bytes at the positions (from 0) [] of a batch of 3",
        "Expected images of at most 9 pixels. Received `images` of shape [1 2 3]",
    ],
)
def test_other_messages_are_left_alone(message):
    assert wire.parse_unreadable_error(message) is None


CLIENT = """
import json, sys
from keras_aploss.serving import EmbeddingClient
loaded = set(sys.modules) & {"tensorflow", "keras", "PIL", "grpc"}
sys.modules |= dict.fromkeys(("tensorflow", "keras", "PIL", "grpc"))  # not installed
with EmbeddingClient(sys.argv[1], model="m", retries=0) as client:
    embeddings, skipped = client.embed_files(sys.argv[2:])
print(json.dumps([sorted(loaded), embeddings.tolist(), skipped]))
"""


def test_a_client_needs_neither_tensorflow_nor_keras_nor_pillow(tmp_path):
    """A web service that only asks the server."""
    photo, empty = tmp_path / "photo.jpg", tmp_path / "empty.jpg"
    photo.write_bytes(b"what the server decodes")
    empty.touch()
    states = answer(NO_LABEL, "400 Bad Request"), answer(STATES)
    answers = *states, answer({"predictions": [[0.6, 0.8]]})
    with server_of(*answers) as (address, _):
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, address, photo, empty],
            check=True,
            capture_output=True,
            text=True,
        )
    loaded, embeddings, skipped = json.loads(done.stdout)
    assert loaded == []
    np.testing.assert_allclose(embeddings, [[0.6, 0.8]], rtol=1e-6)
    assert [reason for _, reason in skipped] == ["the file is empty"]
