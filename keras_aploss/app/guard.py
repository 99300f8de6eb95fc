"""Who may ask, and how much they may send.

A page on 127.0.0.1 is open to whatever runs in the browser of the same person: another
site may give its own name the address 127.0.0.1 (DNS rebinding) and read answers as its
own. So requests under a foreign host name, or sent by the page of another site, are
refused. What is served may not be framed, and loads nothing from elsewhere.
"""

import json
from collections.abc import Iterable
from urllib.parse import urlsplit

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
SECONDS = 120  # for all of an upload


class TooLargeError(Exception):
    """A body over the limit, of which no more than the limit was read."""


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and adds `HEADERS`.

    Args:
        app: the application behind it.
        hosts: names, without ports, under which requests may come; "*" for any.
    """

    def __init__(self, app, hosts: Iterable[str] = LOCAL_HOSTS):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_more(message):
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = message | {"headers": [*message.get("headers", ()), *more]}
            await send(message)

        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        problem = refusal(headers.get(b"host", ""), headers.get(b"origin"), self.hosts)
        if problem is None:
            return await self.app(scope, receive, send_more)
        kind = [(b"content-type", b"application/json")]
        start = {"type": "http.response.start", "status": 403, "headers": kind}
        await send_more(start)
        body = json.dumps({"error": problem}).encode()
        await send_more({"type": "http.response.body", "body": body})


def refusal(host: str, origin: str | None, hosts: set[str]) -> str | None:
    """Why a request is refused, or None.

    Args:
        host: its header `Host`: a name or an address, perhaps with a port.
        origin: its header `Origin`, the page that it was sent by, if there is one.
        hosts: the names that are allowed.

    >>> refusal("localhost:7860", "http://localhost:7860", {"localhost"})
    >>> refusal("evil.example", None, {"localhost"})
    "This page does not answer to the host name 'evil.example'. ..."
    """
    name = _without_port(host)
    if "*" not in hosts and name not in hosts:
        return (
            f"This page does not answer to the host name {name!r}. Whoever runs it "
            "allows more names with `--allow-host`."
        )
    if origin is None:
        return None
    sender = urlsplit(origin).netloc.lower()
    if sender != host.lower() and _without_port(sender) not in hosts - {"*"}:
        return f"Expected a request of this page. Received: one of {origin!r}."
    return None


def _without_port(host):
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


async def read_body(request, limit: int) -> bytes:
    """The body of a request of at most `limit` bytes.

    Raises:
        TooLargeError: it is declared to be longer, before anything is read, or turns
            out to be.
        TimeoutError: it took over `SECONDS`.
    """
    import anyio

    if int(request.headers.get("content-length", 0)) > limit:
        raise TooLargeError
    body = bytearray()
    with anyio.fail_after(SECONDS):
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                raise TooLargeError
            body += chunk
    return bytes(body)
