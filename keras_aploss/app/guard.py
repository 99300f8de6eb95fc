"""Guards of the page: host names, origins, security headers, the size of uploads.

Every site that is open in the same browser can reach a page on 127.0.0.1: such a site
can give its own name that address (DNS rebinding) and read the answers as its own. So
requests under a foreign host name, or sent by a page of another site, are refused. No
other site may show the page in a frame, and it loads nothing from others.

Starlette's `TrustedHostMiddleware` is no substitute: before version 1 it cuts [::1]:80
at the first colon, it checks no origins, and answers "Invalid host header" where ours
names the option that allows the host. Its limit of a body bounds no time.
"""

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
    # The page's own files: the browser asks whether its copy is still the newest.
    "cache-control": "no-cache",
}
SECONDS = 120  # for a whole upload


class TooLargeError(Exception):
    """The body of a request is over the limit; no more than that was kept."""


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
    sender = urlsplit(origin).netloc.lower()
    if sender != host.lower() and _without_port(sender) not in hosts - {"*"}:
        return f"Expected a request of this page. Received: one of {origin!r}."
    return None


def _without_port(host):
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


async def read_body(request, limit: int) -> bytes:
    """Read the body of a request, of at most `limit` bytes.

    Raises:
        TooLargeError: the declared length is over the limit (then nothing is read), or
            more than that arrives.
        TimeoutError: it has not arrived whole after `SECONDS`.
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
