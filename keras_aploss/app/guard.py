"""Guards of the page: host names, origins, security headers, the size of uploads.

Every site that is open in the same browser can reach a page on 127.0.0.1: such a site
can give its own name that address (DNS rebinding) and read the answers as its own. So
requests under a foreign host name, or sent by a page of another site, are refused. No
other site may show the page in a frame, and it loads nothing from others.

Starlette's `TrustedHostMiddleware` is no substitute: before version 1 it cuts [::1]:80
at the first colon, it checks no origins, and answers "Invalid host header" where ours
names the option that allows the host. Its limit of a body bounds no time.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable
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
    # The page's own files: the browser asks whether its copy is still the newest.
    "cache-control": "no-cache",
}
SECONDS = 120  # for a whole upload
IDLE_SECONDS = 10  # without a byte of it


class TooLargeError(Exception):
    """The body of a request is over the limit; no more than that was kept."""


class BusyError(Exception):
    """Too many uploads at a time; the same request may succeed later."""


class Guard:
    """ASGI middleware that refuses foreign hosts and origins, and adds `HEADERS`.

    Headers that the application sets itself are kept.

    Args:
        app: the application behind it.
        hosts: host names, without ports, that are answered; "*" for any.
    """

    def __init__(self, app, hosts: Iterable[str] = LOCAL_HOSTS):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        from starlette.datastructures import MutableHeaders
        from starlette.responses import JSONResponse

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        problem = refusal(headers.get(b"host", ""), headers.get(b"origin"), self.hosts)
        answer = self.app
        if problem is not None:
            answer = JSONResponse({"error": problem}, 403)
        await answer(scope, receive, send_with_headers)


def refusal(host: str, origin: str | None, hosts: set[str]) -> str | None:
    """The reason to refuse a request, or None.

    Args:
        host: its header `Host`: a name or an address, perhaps with a port.
        origin: its header `Origin`: the site whose page sent it, if there is one.
        hosts: the host names that are answered.

    >>> refusal("localhost:7860", "http://localhost:7860", {"localhost"})
    >>> refusal("evil.example", None, {"localhost"})
    "This page does not answer to the host name 'evil.example'. ..."
    """
    name = _without_port(host)
    if "*" not in hosts and name not in hosts:
        return (
            f"This page does not answer to the host name {name!r}. To allow it, start "
            "`keras-aploss app` with `--allow-host NAME`."
        )
    if origin is None:
        return None
    try:
        sender = urlsplit(origin).netloc.lower()
    except ValueError:  # such as http://[
        sender = ""
    is_known = _without_port(sender) in hosts - {"*"}
    if not sender or not (sender == host.lower() or is_known):
        return f"Expected a request of this page. Received: one of {origin!r}."
    return None


def _without_port(host):
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


class BodyMemory:
    """Room for the bodies of all requests together.

    Room is taken by the bytes that have arrived, not by connections: those that
    announce a body and send nothing hold up nobody.

    Args:
        most: bytes that are held at a time.
    """

    def __init__(self, most: int):
        self.most, self.held = most, 0

    @contextlib.asynccontextmanager
    async def body(self, request, limit: int) -> AsyncIterator[bytes]:
        """Read the body of a request, of at most `limit` bytes, and hold its room.

        Raises:
            TooLargeError: the declared length is over the limit (then nothing is read),
                or more than that arrives.
            BusyError: there is no room for it now.
            TimeoutError: it has not arrived whole after `SECONDS`, or nothing of it has
                arrived for `IDLE_SECONDS`.
        """
        body = bytearray()
        try:
            await self._read(request, limit, body)
            yield bytes(body)
        finally:
            self.held -= len(body)

    async def _read(self, request, limit, body):
        import anyio

        if int(request.headers.get("content-length", 0)) > limit:
            raise TooLargeError
        chunks = aiter(request.stream())
        with anyio.fail_after(SECONDS):
            while True:
                with anyio.fail_after(IDLE_SECONDS):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                if len(body) + len(chunk) > limit:
                    raise TooLargeError
                if self.held + len(chunk) > self.most:
                    raise BusyError
                body += chunk
                self.held += len(chunk)
