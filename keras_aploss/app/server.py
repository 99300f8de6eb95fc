"""A server of the page on one address of this machine, by uvicorn (extra `app`)."""

import ipaddress
import socket
import sys
from collections.abc import Sequence

from keras_aploss.app.guard import LOCAL_HOSTS
from keras_aploss.app.web import missing_extra


class PageServer:
    """Hold an address, and serve an application there.

    The address is bound at once, so that a port in use is an error before an index and
    a model are loaded. The server is a context manager, which frees the address.

    Args:
        host: address to listen on; 0.0.0.0 for all addresses of this machine.
        port: port to listen on; 0 for any free port.
        more_hosts: further host names under which the page is served.

    Attributes:
        port: the port that is bound.
        is_local: True if only this machine can reach the address.
        url: the address of the page, for the browser on this machine.
        allowed_hosts: for `search_app`. Any name if other machines may ask and no
            `more_hosts` are given: then the names are not known.

    Raises:
        ImportError: the extra is missing: `pip install 'keras_aploss[app]'`.
        OSError: the port is in use, or the address is not one of this machine.
    """

    def __init__(self, host: str, port: int, more_hosts: Sequence[str] = ()):
        try:
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise missing_extra(error) from error
        self._listener = _bind(host, port)
        self.port = self._listener.getsockname()[1]
        self.is_local = _is_local(host)
        self.allowed_hosts = ("*",)
        if self.is_local or more_hosts:
            self.allowed_hosts = (*LOCAL_HOSTS, host, *more_hosts)
        shown = f"[{host}]" if ":" in host else host
        shown = "127.0.0.1" if host == "0.0.0.0" else shown
        self.url = f"http://{shown}:{self.port}/"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._listener.close()

    def listen(self) -> None:
        """Let browsers connect; they are answered when `run` is called."""
        self._listener.listen()

    def run(self, app) -> None:
        """Serve an ASGI application until Ctrl-C, a `KeyboardInterrupt`."""
        import uvicorn

        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        uvicorn.Server(config).run(sockets=[self._listener])


def _bind(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if sys.platform != "win32":  # where it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"Expected a free port at an address of this machine. Received: {host}, "
            f"port {port}: {error.strerror or error}. Choose another `--port` or "
            "`--host`."
        ) from error
    return listener


def _is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
