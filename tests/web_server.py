"""Run an application in a thread, by its real server, and ask it."""

import contextlib
import http.client
import json
import threading
import time


@contextlib.contextmanager
def serving(app, port=0):
    """Serve; yields the port."""
    import uvicorn

    config = uvicorn.Config(app, port=port, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


class Answer:
    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)


def ask(port, path, body=None, method=None, headers=(), host=None):
    """Send a request with its path as it is, and a body of bytes or JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if isinstance(body, dict):
        body = json.dumps(body)
    headers = dict(headers)
    if host is not None:
        headers["Host"] = host
    method = method or ("GET" if body is None else "POST")
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        return Answer(connection.getresponse())
