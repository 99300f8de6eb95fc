"""The REST interface of TensorFlow Serving: JSON over HTTP, by urllib3.

urllib3 itself and not `requests`, which is built on it: there, proxies, `.netrc` and
cookies would have to be switched off, certificates would come from a bundle instead of
the system's store, and no time-out covers connection and answer together.

Dimension key: B files in a request, D units.
"""

import base64
import contextlib
import json
import time
import urllib.parse
from collections.abc import Sequence

import urllib3

from keras_aploss.serving import answers, wire

_BUSY = (429, 502, 503)
_BLOCK = 2**16
_ANSWER_BYTES = 2**28  # 6,000 embeddings of 2,048 units in JSON


class RestApi:
    """The model at a URL such as `http://host:8501`, over its REST interface.

    Each request has a connection of its own: one that was kept could have been closed
    by the server in the meantime. Redirects are not followed.
    """

    def __init__(self, server: str, parts: urllib.parse.SplitResult, model: str):
        self.server, self.model = server, model
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

    def labelled(self, label: str, timeout: float) -> int:
        """The version that has a label, by the metadata of the model.

        The server's states are no answer: it leaves out the label, and lists all.
        """
        quoted = urllib.parse.quote(label, safe="")
        path = f"{self._path}/labels/{quoted}/metadata"
        answer = self._call("GET", path, None, timeout, None, label)
        try:
            return int(answer["model_spec"]["version"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._foreign(answer) from error

    def predict(self, contents: Sequence[bytes], version: int, timeout: float):
        """The answer to B files, which is not checked yet: a list of embeddings."""
        instances = [
            {wire.FILES_INPUT: {"b64": base64.b64encode(data).decode("ascii")}}
            for data in contents
        ]
        body = {"signature_name": wire.FILES_SIGNATURE, "instances": instances}
        path = f"{self._path}/versions/{version}:predict"
        answer = self._call("POST", path, json.dumps(body).encode(), timeout, version)
        try:
            predictions = answer["predictions"]
        except (KeyError, TypeError) as error:
            raise self._foreign(answer) from error
        # Each prediction of a signature with several outputs is an object.
        if predictions and isinstance(predictions[0], dict):
            names = ", ".join(sorted(predictions[0]))
            raise answers.rejection(self.server, self.model, f"it gives {names}")
        return predictions

    def close(self) -> None:
        """Do nothing: no connection outlives its request."""

    def _call(self, method, path, body, timeout, version, label=None):
        """The JSON value in the answer to a request, or the error for its status."""
        deadline = time.monotonic() + timeout
        headers = {"Connection": "close"}
        if body:
            headers["Content-Type"] = "application/json"
        # A pool would keep the connection, and send the next request into one that the
        # server, asked to close it, is about to close.
        pool = urllib3.connection_from_url(self.server)
        try:
            with contextlib.closing(pool):
                response = pool.urlopen(
                    method,
                    path,
                    body,
                    headers,
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(total=timeout),
                    preload_content=False,
                    decode_content=False,
                )
                with contextlib.closing(response):
                    data = self._read(response, deadline)
        except (TimeoutError, urllib3.exceptions.HTTPError) as error:
            if _is_late(error):
                raise answers.too_slow(self.server, timeout) from error
            message = f"{type(error).__name__}: {error}"
            raise answers.unavailable(self.server, message) from error
        return self._answer(response.status, data, timeout, version, label)

    def _read(self, response, deadline):
        """The whole body; urllib3 limits the time of each piece, this that of all."""
        data = bytearray()
        while block := response.read1(_BLOCK):
            data += block
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(data) > _ANSWER_BYTES:
                raise ValueError(
                    f"Expected an answer of {self.server} of at most "
                    f"{_ANSWER_BYTES / 2**20:g} MiB. Received: a longer one. Send "
                    "fewer images at once (`batch_size`)."
                )
        return bytes(data)

    def _answer(self, status, data, timeout, version, label):
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if status == 200 and answer is not None:
            return answer
        message = answer.get("error") if isinstance(answer, dict) else None
        known = isinstance(message, str)
        message = message if known else data[:200].decode("utf-8", "replace")
        if status == 404 and known:
            raise answers.not_found(self.server, self.model, version, message, label)
        if status in (400, 412) and known:
            raise answers.rejection(self.server, self.model, message, label)
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
            f"Expected TensorFlow Serving at {self.server}. Received: an answer of "
            f"another server: {str(answer)[:200]!r}. Check the address and the port."
        )


def _is_late(error):
    # In urllib3, a connection that was refused is a time-out as well.
    late = isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError)
    return late and not isinstance(error, urllib3.exceptions.NewConnectionError)
