"""The client against a gRPC and a REST server that run an exported SavedModel."""

import contextlib
import io
import socket
import threading
import time

import keras
import numpy as np
import PIL.Image
import pytest

from keras_aploss import EmbeddingClient, VectorIndex, export_saved_model
from keras_aploss.images import hash_files
from keras_aploss.search import require_agreement
from keras_aploss.serving import client as embedding_client
from keras_aploss.serving.answers import UnavailableError, UnreadableError, rejection

pytest.importorskip("tensorflow_serving")
from model_server import SERVERS, Models, Trouble

from keras_aploss.serving.grpc_api import array_of

SIZE, UNITS = 16, 6


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(images)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.UnitNormalization()(keras.layers.Dense(UNITS)(x))
    return keras.Model(images, x)


@pytest.fixture(scope="module")
def models(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    export_saved_model(model, folder, image_size=SIZE)
    return Models(folder, "tiny")


@pytest.fixture(scope="module")
def addresses(models):
    with contextlib.ExitStack() as stack:
        yield {k: stack.enter_context(serve(models)) for k, serve in SERVERS.items()}


@pytest.fixture(params=SERVERS)
def server(request, models, addresses):
    models.trouble, models.requests = Trouble(), []
    yield addresses[request.param]
    models.trouble = Trouble()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(embedding_client, "_FIRST_WAIT", 0.02)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of the size that the model sees, so that nothing resizes them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(9):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), "uint8")
        paths.append(folder / f"a photo {number} é.png")
        PIL.Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def expected(model, photos):
    pixels = np.stack([np.asarray(PIL.Image.open(path)) for path in photos])
    return model.predict(pixels.astype("float32"), verbose=0)


def client_of(server, **options):
    return EmbeddingClient(server, model=options.pop("model", "tiny"), **options)


def test_files_are_embedded_as_by_keras(server, models, photos, expected):
    with client_of(server, batch_size=4, workers=3) as client:
        embeddings, skipped = client.embed_files(photos)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        assert embeddings.dtype == np.float32
        assert skipped == []
        assert (client.version, client.units) == (1, UNITS)
        contents = [path.read_bytes() for path in photos]
        np.testing.assert_allclose(client.embed(contents), expected, atol=1e-5)
    sizes = [r.inputs["image_bytes"].tensor_shape.dim[0].size for r in models.requests]
    assert sorted(sizes) == [1, 1, 4, 4, 4, 4]
    assert {request.model_spec.version.value for request in models.requests} == {1}


def test_both_forms_of_a_tensor_are_read(addresses, models, photos, expected):
    models.trouble = Trouble(tensor_content=True)
    with client_of(addresses["grpc"]) as client:
        np.testing.assert_allclose(client.embed_files(photos)[0], expected, atol=1e-5)
    models.trouble = Trouble()


def test_bad_files_are_named_and_the_others_embedded(
    server, models, photos, expected, tmp_path
):
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(b"\xff\xd8\xff\xe0 nonsense")
    empty.write_bytes(b"")
    mixed = [*photos[:3], broken, photos[3], tmp_path / "missing", empty, photos[4]]
    mixed += [tmp_path, broken]
    with client_of(server) as client:
        embeddings, skipped = client.embed_files(mixed)
        np.testing.assert_allclose(embeddings, expected[:5], atol=1e-5)
        reasons = {skip.path: skip.reason for skip in skipped}
        assert set(reasons) == {
            str(path) for path in (broken, empty, tmp_path, tmp_path / "missing")
        }
        assert "cannot decode" in reasons[str(broken)]
        assert "empty" in reasons[str(empty)]
        assert "No such file" in reasons[str(tmp_path / "missing")]
        assert "folder" in reasons[str(tmp_path)]
        contents = [photos[0].read_bytes(), b"bad", photos[1].read_bytes(), b""]
        with pytest.raises(UnreadableError, match=r"\[1, 3\] of 4") as raised:
            client.embed(contents)
        assert raised.value.positions == [1, 3]
        with pytest.raises(ValueError, match=r"2 files, none readable.*broken"):
            client.embed_files([broken, broken])


def test_more_bad_files_than_a_message_lists(server, photos, expected, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"bad")
    mixed = [photos[0], *[broken] * 45, photos[1]]
    with client_of(server, batch_size=64) as client:
        embeddings, skipped = client.embed_files(mixed)
    np.testing.assert_allclose(embeddings, expected[:2], atol=1e-5)
    assert len(skipped) == 45


def test_a_batch_that_others_spoilt_is_sent_again(server, models, photos, expected):
    good = photos[2].read_bytes()
    models.trouble.joined_with = [good, b"the bad file of another client"]
    with client_of(server) as client:
        embeddings, skipped = client.embed_files(photos[:3])
    np.testing.assert_allclose(embeddings, expected[:3], atol=1e-5)
    assert skipped == []
    assert len(models.requests) == 2
    models.trouble.joined_with = [b"bad"]
    with (
        client_of(server, retries=0) as client,
        pytest.raises(UnavailableError, match="joined several requests"),
    ):
        client.embed([good])


def test_an_overloaded_server_is_asked_again(server, models, photos, expected):
    models.trouble.unavailable = 2
    with client_of(server, workers=1) as client:
        embeddings, _ = client.embed_files(photos)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        assert len(models.requests) == 3
        models.trouble.unavailable = 9
        client.retries = 1
        with pytest.raises(UnavailableError, match="queue"):
            client.embed_files(photos[:1])
        assert models.trouble.unavailable == 7


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_is_down_is_waited_for(kind, models, photos, expected):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"{'http' if kind == 'rest' else kind}://127.0.0.1:{port}"
    started = time.monotonic()
    with (
        client_of(address, retries=2) as client,
        pytest.raises(ConnectionError, match=f"Expected a model server at {address}"),
    ):
        client.embed_files(photos)
    assert time.monotonic() - started < 5
    answered = threading.Event()

    def start_late():
        time.sleep(0.5)
        with SERVERS[kind](models, port):
            answered.wait(30)

    thread = threading.Thread(target=start_late)
    thread.start()
    try:
        with client_of(address, retries=10) as client:
            embeddings, _ = client.embed_files(photos)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    finally:
        answered.set()
        thread.join()


def test_a_slow_server_is_not_waited_for(server, models, photos):
    with client_of(server, timeout=0.3) as client:
        assert client.version == 1
        models.trouble.seconds = 1.5
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0.3 s"):
            client.embed_files(photos[:1])
        assert time.monotonic() - started < 1.2
    assert len(models.requests) <= 1  # not sent again


def test_an_answer_in_drops_does_not_last_for_ever():
    """The time-out of a socket is for each piece; that of the client for all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = threading.Event()

        def drip():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(2**16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
                while not done.wait(0.1):
                    connection.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = client_of(address, timeout=0.5, retries=0)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.embed([b"x"])
        assert time.monotonic() - started < 3
        done.set()
        thread.join()


def test_another_dimension_is_refused(server, models, photos):
    with (
        client_of(server, units=128) as client,
        pytest.raises(ValueError, match=rf"\(9, 128\).*Received: \(9, {UNITS}\)"),
    ):
        client.embed_files(photos)
    with client_of(server) as client:
        client.embed_files(photos)
        models.trouble.units = 4
        with pytest.raises(ValueError, match=r"\(9, 6\).*Received: \(9, 4\)"):
            client.embed_files(photos)


def test_embeddings_that_are_not_finite_are_refused(server, models, photos):
    models.trouble.nan = True
    with client_of(server) as client, pytest.raises(ValueError, match="finite"):
        client.embed_files(photos)


def test_what_the_server_does_not_have_is_told(server, models, photos, monkeypatch):
    with (
        client_of(server, model="other model") as client,
        pytest.raises(ValueError, match=r"model='other model'.*Could not find any"),
    ):
        client.embed_files(photos)
    with (
        client_of(server, version=7) as client,
        pytest.raises(ValueError, match=r"version=7.*Servable not found"),
    ):
        client.embed_files(photos)
    monkeypatch.setattr("keras_aploss.serving.wire.FILES_SIGNATURE", "classify")
    with (
        client_of(server) as client,
        pytest.raises(ValueError, match=r"'classify'.*not found in signature def"),
    ):
        client.embed_files(photos)


def test_another_input_of_the_signature_is_told(server, photos, monkeypatch):
    monkeypatch.setattr("keras_aploss.serving.wire.FILES_INPUT", "jpeg")
    with (
        client_of(server) as client,
        pytest.raises(ValueError, match="input size does not match signature"),
    ):
        client.embed_files(photos)


def test_a_version_that_is_loading_is_waited_for(server, models, photos):
    models.trouble.state = "LOADING"
    with (
        client_of(server, retries=1) as client,
        pytest.raises(UnavailableError, match="version 1 is LOADING"),
    ):
        client.embed_files(photos)
    models.trouble.state = "END"
    with client_of(server) as client, pytest.raises(ValueError, match="version 1 is"):
        client.embed_files(photos)


def test_a_new_version_does_not_mix_in(server, models, photos, expected):
    with client_of(server) as client:
        client.embed_files(photos[:1])
        models.versions[2] = models.versions[1]
        try:
            client.embed_files(photos)
            assert models.requests[-1].model_spec.version.value == 1
            with client_of(server) as later:
                assert later.version == 2
        finally:
            del models.versions[2]


@pytest.fixture(scope="module")
def another(model, tmp_path_factory):
    """A model of the same shapes, exported as version 2 and loaded."""
    other = keras.models.clone_model(model)
    other.set_weights([-weight for weight in model.get_weights()])
    folder = tmp_path_factory.mktemp("canary")
    export_saved_model(other, folder, image_size=SIZE, version=2)
    return Models(folder, "tiny").versions


@pytest.fixture
def canary(models, another, monkeypatch):
    """Beside version 1, which has the label `stable`, 2 gives other embeddings."""
    monkeypatch.setattr(models, "versions", models.versions | another)
    monkeypatch.setattr(models, "labels", {"stable": 1, "canary": 2, "a b/c": 2})


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({}, 1),
        ({"label": "stable"}, 1),
        ({"label": "canary"}, 2),
        ({"label": "a b/c"}, 2),
        ({"version": 2}, 2),
    ],
)
def test_a_canary_answers_only_whom_it_is_for(
    canary, server, models, photos, expected, options, version
):
    with client_of(server, **options) as client:
        embeddings, _ = client.embed_files(photos)
        assert client.version == version
    assert {request.model_spec.version.value for request in models.requests} == {
        version
    }
    assert np.allclose(embeddings, expected, atol=1e-5) is (version == 1)


@pytest.fixture
def index(photos, expected):
    """The embeddings of version 1, of which two files are not here any more."""
    index = VectorIndex(units=UNITS, fingerprint="0123", notes={"model": "runs/one"})
    paths = [str(path) for path in photos]
    ids = hash_files(paths, 1)
    ids[paths[0]] = ids[paths[5]] = "of what was there before"
    index.add([ids[path] for path in paths], expected, paths)
    return index


def test_a_version_that_is_not_that_of_the_index_is_named(
    canary, server, models, index
):
    with client_of(server) as client:
        require_agreement(index, client.embed_files, samples=7)
    assert sum(len(r.inputs["image_bytes"].string_val) for r in models.requests) == 7
    with (
        client_of(server, label="canary") as client,
        pytest.raises(
            ValueError,
            match=r"'runs/one' with the fingerprint 0123. Received from version 2: "
            r"another embedding of '.*a photo . é.png', with a similarity of -?0\.",
        ),
    ):
        require_agreement(index, client.embed_files, source="version 2")
    models.trouble.units = 4
    with (
        client_of(server) as client,
        pytest.raises(ValueError, match="the server: embeddings of 4 units for 6"),
    ):
        require_agreement(index, client.embed_files)


def test_an_index_without_its_files_cannot_be_compared(expected, photos):
    index = VectorIndex(units=UNITS)
    index.add(["1", "2"], expected[:2], ["nowhere.png", str(photos[0])])
    with pytest.raises(ValueError, match="2 of which none is here as it was indexed"):
        require_agreement(index, None)


def test_a_label_that_is_not_there_is_told(canary, server, models):
    with (
        client_of(server, label="beta") as client,
        pytest.raises(ValueError, match=r"label='beta'.*Unrecognized.*models\.config"),
    ):
        client.embed([b"x"])
    models.labels.clear()
    with client_of(server) as client:
        assert client.version == 2  # no version is for everybody: the highest


def test_a_label_of_a_version_that_is_not_loaded_is_waited_for(canary, server, models):
    """Another version would be the wrong one."""
    models.labels["stable"] = 3
    with (
        client_of(server, retries=1) as client,
        pytest.raises(UnavailableError, match=r"the label 'stable'.*is not loaded"),
    ):
        client.embed([b"x"])
    assert models.requests == []


def test_a_server_of_another_kind_is_told(addresses, photos):
    grpc_port = addresses["grpc"].replace("grpc", "http")
    with pytest.raises(ConnectionError, match="usually 8500 for grpc"):
        client_of(grpc_port, retries=0).embed_files(photos)
    rest_port = addresses["rest"].replace("http", "grpc")
    with (
        client_of(rest_port, retries=0, timeout=5) as client,
        pytest.raises(ConnectionError, match="usually 8500 for grpc"),
    ):
        client.embed_files(photos)
    below = client_of(addresses["rest"] + "/prefix", retries=0)
    with pytest.raises(ValueError, match="Malformed request"):
        below.embed_files(photos)


def test_a_request_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(embedding_client, "_REQUEST_BYTES", 100)
    groups = embedding_client._groups([40, 40, 40, 300, 1, 1, 1, 1], 3)
    assert groups == [[0, 1], [2], [3], [4, 5, 6], [7]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"server": "localhost:8500"}, "server='localhost:8500'"),
        ({"server": "grpc://localhost"}, "grpc://HOST:8500"),
        ({"server": "ftp://localhost:1"}, "ftp"),
        ({"server": "http://localhost:port"}, "http://localhost:port"),
        ({"model": ""}, "model=''"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"retries": -1}, "retries=-1"),
        ({"version": 0}, "version=0"),
        ({"version": 1, "label": "stable"}, "version=1, label='stable'"),
        ({"label": ""}, "label=''"),
    ],
)
def test_arguments_are_checked(arguments, message):
    arguments = {"server": "http://localhost:1", "model": "m", **arguments}
    with pytest.raises(ValueError, match=message):
        EmbeddingClient(**arguments)
    with pytest.raises(ValueError, match="at least one file"):
        EmbeddingClient("http://localhost:1", model="m").embed([])


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r'pip install "keras_aploss\[serving\]"'):
        client_of("grpc://localhost:1")


def test_a_tensor_of_another_kind_is_refused():
    import tensorflow as tf

    same = tf.make_tensor_proto(np.full((2, 3), 0.5, "float32"))
    same.ClearField("tensor_content")
    same.float_val.extend([0.5])
    np.testing.assert_array_equal(array_of(same), np.full((2, 3), 0.5))
    for value in (np.zeros((2, 2)), np.zeros((2, 2), "int32")):
        with pytest.raises(ValueError, match="float32 numbers"):
            array_of(tf.make_tensor_proto(value))
    short = tf.make_tensor_proto(np.arange(6.0, dtype="float32"))
    short.tensor_shape.dim[0].size = 7
    with pytest.raises(ValueError, match="do not fill"):
        array_of(short)


def test_a_message_that_names_no_positions_is_a_rejection():
    error = rejection("http://a:1", "m", "unreadable bytes, positions unknown")
    assert type(error) is ValueError
    assert "unreadable bytes, positions unknown." in str(error)


def test_the_readme_request_is_answered(addresses, photos, expected):
    """As `curl` sends it: a row of the one input, without its name."""
    import base64
    import json
    import urllib.request

    image = base64.b64encode(photos[0].read_bytes()).decode()
    body = json.dumps({"instances": [{"b64": image}]}).encode()
    url = f"{addresses['rest']}/v1/models/tiny:predict"
    with urllib.request.urlopen(url, body) as answer:
        predictions = json.load(io.TextIOWrapper(answer))["predictions"]
    np.testing.assert_allclose(predictions, expected[:1], atol=1e-5)
