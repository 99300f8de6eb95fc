"""The REST interface of TensorFlow Serving: JSON by HTTP, with the standard library.

Dimension key: B files in a request, D units.
"""

import base64
import http.client
import json
import time
import urllib.parse
from collections.abc import Sequence

from keras_aploss.serving import answers

_BUSY = (429, 502, 503)
_BLOCK = 2**16


class RestApi:
    """The models below a URL such as `http://host:8501`.

    Each request has a connection of its own, so that threads share nothing.
    """

    def __init__(self, server: str, parts: urllib.parse.SplitResult, model: str):
        self.server, self.model = server, model
        self._parts = parts
        quoted = urllib.parse.quote(model, safe="")
        self._path = f"{parts.path.rstrip('/')}/v1/models/{quoted}"

    def version(self, timeout: float) -> int:
        """The highest version that is available."""
        answer = self._call("GET", self._path, None, timeout, None)
        try:
            states = [
                (
                    int(one["version"]),
                    one["state"],
                    one.get("status", {}).get("error_message", ""),
                )
                for one in answer["model_version_status"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._foreign(answer) from error
        return answers.available_version(self.server, self.model, states)

    def predict(self, contents: Sequence[bytes], version: int, timeout: float):
        """What the server makes of B files, not yet checked."""
        instances = [
            {answers.INPUT: {"b64": base64.b64encode(data).decode("ascii")}}
            for data in contents
        ]
        body = {"signature_name": answers.SIGNATURE, "instances": instances}
        path = f"{self._path}/versions/{version}:predict"
        answer = self._call("POST", path, json.dumps(body).encode(), timeout, version)
        try:
            predictions = answer["predictions"]
        except (KeyError, TypeError) as error:
            raise self._foreign(answer) from error
        # Of a signature with several outputs each prediction is an object.
        if predictions and isinstance(predictions[0], dict):
            names = ", ".join(sorted(predictions[0]))
            raise answers.rejection(self.server, self.model, f"it gives {names}")
        return predictions

    def close(self) -> None:
        """There is nothing to close."""

    def _call(self, method, path, body, timeout, version):
        """The object that a request answers, or the error for its code."""
        deadline = time.monotonic() + timeout
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname, self._parts.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = self._read(connection, response, deadline, timeout)
        except TimeoutError as error:
            raise answers.too_slow(self.server, timeout) from error
        except (OSError, http.client.HTTPException) as error:
            message = f"{type(error).__name__}: {error}"
            raise answers.unavailable(self.server, message) from error
        finally:
            connection.close()
        return self._answer(response.status, data, timeout, version)

    def _read(self, connection, response, deadline, timeout):
        """The whole body. The time-out of a socket is for each of its pieces."""
        blocks = []
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
            block = response.read1(_BLOCK)
            if not block:
                data = b"".join(blocks)
                # `read1` does not say that the connection broke off before the end.
                expected = response.getheader("Content-Length")
                if expected is not None and len(data) < int(expected):
                    raise http.client.IncompleteRead(data, int(expected) - len(data))
                return data
            blocks.append(block)

    def _answer(self, status, data, timeout, version):
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            return answer
        message = answer.get("error") if isinstance(answer, dict) else None
        known = isinstance(message, str)
        message = message if known else data[:200].decode("utf-8", "replace")
        if status == 404 and known:
            raise answers.not_found(self.server, self.model, version, message)
        if status in (400, 412) and known:
            raise answers.rejection(self.server, self.model, message)
        if status in _BUSY:
            raise answers.unavailable(self.server, f"HTTP {status}: {message}")
        if status == 504:
            raise answers.too_slow(self.server, timeout)
        if status == 413:
            raise ValueError(
                f"Expected a request that {self.server} takes. Received: one that is "
                "too large. Send fewer images at once (`batch_size`)."
            )
        if status in (200, 404):
            raise self._foreign(message)
        raise RuntimeError(
            f"Expected an answer of {self.server}. Received: HTTP {status}: {message}"
        )

    def _foreign(self, answer):
        return ValueError(
            f"Expected TensorFlow Serving at {self.server}. Received: an answer that "
            f"is not of it: {str(answer)[:200]!r}. Check the address and the port."
        )
