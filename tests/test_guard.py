"""Requests that are refused: by their host, their origin, their size."""

import asyncio
import types

import pytest

from keras_aploss.app import guard
from keras_aploss.app.guard import (
    LOCAL_HOSTS,
    BodyMemory,
    BusyError,
    TooLargeError,
    refusal,
)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", None),
        ("LocalHost:7860", None),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("[::1]:7860", None),
        ("[::1]", None),
        # A proxy of the same machine hands on another port, or another name.
        ("localhost:1", "https://localhost"),
        ("search.example", "https://search.example"),
        ("127.0.0.1:7860", "https://search.example"),
    ],
)
def test_own_names_are_answered(host, origin):
    assert refusal(host, origin, {*LOCAL_HOSTS, "search.example"}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:7860",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example#localhost",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "[::1].evil.example",
        "localhost:evil",
        "",
        "*",
    ],
)
def test_foreign_names_are_refused(host):
    assert "does not answer to the host name" in refusal(host, None, set(LOCAL_HOSTS))


@pytest.mark.parametrize("hosts", [set(LOCAL_HOSTS), {"*"}])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "file://", "", "*", "http://[", "http://[::1", "["],
)
def test_pages_of_other_sites_are_refused(hosts, origin):
    assert "request of this page" in refusal("localhost:7860", origin, hosts)


def test_with_any_host_only_the_same_origin_is_answered():
    assert refusal("a.example:1", "http://a.example:1", {"*"}) is None
    assert refusal("a.example", None, {"*"}) is None
    assert refusal("a.example:1", "http://b.example:1", {"*"}) is not None


class Request(types.SimpleNamespace):
    """A request whose body comes in pieces, and counts those that were taken."""

    async def stream(self):
        for piece in self.pieces:
            self.taken += len(piece)
            yield piece
            await asyncio.sleep(self.seconds)


def request(pieces, declared=None, seconds=0):
    headers = {} if declared is None else {"content-length": str(declared)}
    return Request(pieces=pieces, headers=headers, taken=0, seconds=seconds)


def read_body(request, limit, memory=None):
    async def read():
        async with (memory or BodyMemory(10**6)).body(request, limit) as body:
            return body

    pytest.importorskip("anyio")
    return asyncio.run(read())


def test_a_body_is_read_up_to_the_limit():
    assert read_body(request([b"abc", b"", b"de"]), 5) == b"abcde"


def test_of_a_longer_one_no_more_than_the_limit_is_held():
    endless = request(bytes(1000) for _ in iter(int, 1))
    with pytest.raises(TooLargeError):
        read_body(endless, 5500)
    assert endless.taken == 6000
    declared = request([b"abc"], declared=6)
    with pytest.raises(TooLargeError):
        read_body(declared, 5)
    assert declared.taken == 0


@pytest.mark.parametrize("name", ["SECONDS", "IDLE_SECONDS"])
def test_who_sends_slowly_is_not_waited_for(monkeypatch, name):
    monkeypatch.setattr(guard, name, 0.1)
    seconds = 0.05 if name == "SECONDS" else 0.5
    memory = BodyMemory(1000)
    with pytest.raises(TimeoutError):
        read_body(request([b"a"] * 100, seconds=seconds), 1000, memory)
    assert memory.held == 0


def test_bodies_together_have_a_bound_and_give_their_room_back():
    async def read_two(memory):
        async with memory.body(request([b"abc"]), 9) as first:
            with pytest.raises(BusyError):
                async with memory.body(request([b"de", b"f"]), 9):
                    pass
            assert memory.held == 3
            async with memory.body(request([b"gh"]), 9) as second:
                assert memory.held == 5
        assert memory.held == 0
        return first, second

    pytest.importorskip("anyio")
    assert asyncio.run(read_two(BodyMemory(5))) == (b"abc", b"gh")
