"""REST answers that no server of ours gives, byte by byte: each is one clear error."""

import contextlib
import json
import re
import socket
import threading

import numpy as np
import pytest

from keras_aploss import EmbeddingClient
from keras_aploss.serving import UnavailableError, rest_api

# Of the metadata of the label that is asked for first, where no version has it.
NO_LABEL = {"error": "Unrecognized servable version label: stable"}
STATES = {"model_version_status": [{"version": "3", "state": "AVAILABLE"}]}


def answer(body, status="200 OK", length=None, more=""):
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n"
    return head.encode() + body


def whole_request(file):
    """All bytes of a request: what is left unread would reset the connection."""
    lines = list(iter(file.readline, b"\r\n"))
    head = b"".join(lines) + b"\r\n"
    length = re.search(rb"(?i)^content-length: (\d+)", head, re.M)
    return head + file.read(int(length[1]) if length else 0)


@contextlib.contextmanager
def server_of(*answers):
    """Give an answer to each connection; yields the address and the requests."""
    requests = []

    def serve():
        for given in answers:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                requests.append(whole_request(connection.makefile("rb")))
                connection.sendall(given)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests


def embed(address, **options):
    options = {"version": 3, "retries": 0, "timeout": 10, **options}
    with EmbeddingClient(address, model="m", **options) as client:
        return client.embed([b"x"])


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (b"", UnavailableError, "Expected a model server"),
        (b"hello\r\n\r\n", UnavailableError, "Expected a model server"),
        (answer(b'{"predictions": [[1', length=99), UnavailableError, "Incomplete"),
        (CHUNKED + b"20\r\n{", UnavailableError, "Incomplete"),
        (answer(b"<html>"), ValueError, "of another server: '<html>'"),
        (answer(b""), ValueError, "of another server"),
        (answer(b"[" * 10_000), ValueError, "of another server"),
        (answer(b"\xff\xfe"), ValueError, "of another server"),
        (answer(b"[]"), ValueError, "of another server"),
        (answer({"outputs": []}), ValueError, "of another server"),
        (answer({"predictions": "many"}), ValueError, "matrix of numbers"),
        (answer(b'{"predictions": [[NaN, 1]]}'), ValueError, "NaN or infinity"),
        (answer(b'{"predictions": [[1e999]]}'), ValueError, "NaN or infinity"),
        (answer({"predictions": [[1], [1]]}), ValueError, r"shape \(1, 'D'\)"),
        (answer({"predictions": [{"a": 1, "b": 2}]}), ValueError, "it gives a, b"),
        (answer(b"full", "429 Too Many Requests"), UnavailableError, "429: full"),
        (answer(b"", "504 Gateway Timeout"), TimeoutError, "within 10 s"),
        (answer(b"", "413 Content Too Large"), ValueError, "`batch_size`"),
        (answer(b"", "500 Internal Server Error"), RuntimeError, "HTTP 500"),
    ],
)
def test_a_fault_of_the_server_is_told(given, error, message):
    with server_of(given) as (address, _), pytest.raises(error, match=message):
        embed(address)


def test_a_redirect_is_not_followed():
    with server_of(answer({"predictions": [[1.0]]})) as (elsewhere, asked):
        moved = answer(b"", "307 Moved", more=f"Location: {elsewhere}/\r\n")
        with (
            server_of(moved) as (address, _),
            pytest.raises(RuntimeError, match="HTTP 307"),
        ):
            embed(address)
        assert asked == []


def test_an_answer_is_bounded(monkeypatch):
    monkeypatch.setattr(rest_api, "_ANSWER_BYTES", 1000)
    for given in (answer(bytes(2000)), CHUNKED + b"7d0\r\n" + bytes(2000)):
        with (
            server_of(given) as (address, _),
            pytest.raises(ValueError, match=r"at most .* MiB"),
        ):
            embed(address)


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    with server_of(answer({"predictions": [[1.0]]})) as (proxy, asked):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        with server_of(answer({"predictions": [[0.5]]})) as (address, _):
            np.testing.assert_array_equal(embed(address), [[0.5]])
        assert asked == []


def test_a_request_that_can_succeed_later_is_sent_again(monkeypatch):
    monkeypatch.setattr("keras_aploss.serving.client._FIRST_WAIT", 0.01)
    answers = [
        answer(NO_LABEL, "400 Bad Request"),
        answer(STATES),
        answer({"error": "full"}, "503 Service Unavailable"),
        answer(b'{"predictions"', length=999),
        answer({"predictions": [[0.5]]}),
    ]
    with server_of(*answers) as (address, asked):
        embedding = embed(address, version=None, retries=2)
    np.testing.assert_array_equal(embedding, [[0.5]])
    lines = [request.split(b"\r\n")[0] for request in asked]
    predict = b"POST /v1/models/m/versions/3:predict HTTP/1.1"
    assert lines == [
        b"GET /v1/models/m/labels/stable/metadata HTTP/1.1",
        b"GET /v1/models/m HTTP/1.1",
        *[predict] * 3,
    ]
