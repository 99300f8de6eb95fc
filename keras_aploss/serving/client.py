"""A client that embeds image files by a model server.

Each request holds several files, and several requests are sent at a time. A request
that fails because the server is down, loading or overloaded is sent again, after longer
and longer waits. If files cannot be decoded, the server names them, and the request is
sent again without them.

All answers come from one version of the model: the client asks for it at first and
names it in each request. Embeddings of two versions cannot be compared; if the server
loaded a new version halfway, they would be mixed, and only poor results would show it.
Which version that is, the operator of the server says by a label: the highest may be
one that is only tried.

The client imports neither TensorFlow, Keras nor Pillow, so that a service can use it
without them. Only gRPC needs TensorFlow (see `grpc_api`).

Dimension key: N files, B files in a request, D units.
"""

import collections
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_aploss.images import SkippedImage, file_reason, none_readable
from keras_aploss.serving.answers import (
    UnavailableError,
    UnknownLabelError,
    UnreadableError,
    checked,
)
from keras_aploss.serving.grpc_api import GrpcApi
from keras_aploss.serving.rest_api import RestApi

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0  # seconds, between tries
_STABLE = "stable"  # the label, by convention, of the version that is for everybody
_REQUEST_BYTES = 64 * 2**20  # of files; photos of phones have a few MiB


class EmbeddingClient:
    """Embeddings of image files by TensorFlow Serving, over gRPC or REST.

    `embed` takes the bytes of files, `embed_files` their paths. Both may be called from
    several threads. The client is a context manager; `close` ends its connections.
    Proxies of the environment are not used over REST.

    Args:
        server: `grpc://HOST:8500` or `http://HOST:8501`; with TLS `grpcs://` or
            `https://`. gRPC needs the extra `serving`.
        model: the name under which the model is served.
        version: a version of it. By default the one that has the label `stable` when
            the server is asked first; if the server has given no such label, the
            highest that is available.
        label: take the version that has this label instead, such as `canary`.
        units: D; embeddings of another size are refused. By default the size of the
            first answer.
        batch_size: files in a request; fewer if they have more than 64 MiB together.
        timeout: seconds for each answer.
        retries: how often a request is sent again while the server is not available,
            after 0.25, 0.5, 1, 2... seconds.
        workers: number of requests that are sent at a time.

    Raises:
        ValueError: for arguments out of range, a model, version, label or signature
            that the server does not have, embeddings of another size, or files that it
            cannot decode.
        ConnectionError: the server is still not available after all retries.
        TimeoutError: it does not answer in time.
        ImportError: gRPC is asked for without the extra `serving`.

    Example:
        >>> from keras_aploss import EmbeddingClient
        >>> client = EmbeddingClient("http://localhost:1", model="landmarks", retries=0)
        >>> client.embed([b"the bytes of a JPEG file"])
        Traceback (most recent call last):
        ...
        keras_aploss.serving.answers.UnavailableError: Expected a model server at
        http://localhost:1. Received: ... Check that it runs, and the port: usually
        8500 for grpc://, 8501 for http://.
    """

    def __init__(
        self,
        server: str,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        units: int | None = None,
        batch_size: int = 16,
        timeout: float = 60.0,
        retries: int = 5,
        workers: int = 2,
    ):
        whole = {"batch_size": batch_size, "workers": workers, "units": units}
        for name, value in {**whole, "version": version}.items():
            if value is not None and value < 1:
                raise ValueError(f"Expected at least 1. Received: {name}={value}.")
        if not timeout > 0 or retries < 0 or not model:
            raise ValueError(
                "Expected a name, `timeout` > 0 and `retries` >= 0. Received: "
                f"model={model!r}, timeout={timeout}, retries={retries}."
            )
        if label is not None and (version is not None or not label):
            raise ValueError(
                "Expected a version or the label of one. Received: "
                f"version={version}, label={label!r}."
            )
        self.batch_size, self.timeout, self.retries = batch_size, timeout, retries
        self.server, self.model, self.workers = server, model, workers
        self.units, self._version, self._label = units, version, label
        self._lock = threading.Lock()
        self._api = _api(server, model)

    @property
    def version(self) -> int:
        """The version of the model that answers; the first use asks the server."""
        with self._lock:
            if self._version is None:
                self._version = self._again(self._choose_version)
            return self._version

    def _choose_version(self):
        try:
            return self._api.labelled(self._label or _STABLE, self.timeout)
        except UnknownLabelError:
            if self._label is not None:
                raise
            return self._api.version(self.timeout)

    def embed(self, contents: Sequence[bytes]) -> np.ndarray:
        """Embed N files, given as bytes.

        Returns:
            (N, D) float32.

        Raises:
            UnreadableError: some files cannot be decoded; its `positions` are theirs.
            ValueError, ConnectionError, TimeoutError: see the class.
        """
        contents = list(contents)
        if not contents:
            raise ValueError("Expected at least one file. Received: contents=[].")
        groups = _groups([len(data) for data in contents], self.batch_size)
        with ThreadPoolExecutor(self.workers) as pool:
            parts = list(
                pool.map(
                    self._embed_readable, ([contents[i] for i in g] for g in groups)
                )
            )
        bad = [g[i] for g, (_, bad) in zip(groups, parts, strict=True) for i in bad]
        if bad:
            raise UnreadableError(bad, len(contents))
        return np.concatenate([rows for rows, _ in parts])

    def embed_files(self, paths: Sequence) -> tuple[np.ndarray, list[SkippedImage]]:
        """Embed files, and list those that cannot be read.

        Args:
            paths: N files.

        Returns:
            (N', D) float32, the embeddings of the readable files in the order of the
            paths; and the N - N' others with the reason: they cannot be read here, or
            the server cannot decode them.

        Raises:
            ValueError: no file is readable, or see the class.
            ConnectionError, TimeoutError: see the class.
        """
        rows, skipped = [], []
        for embeddings, _, bad in self.embed_batches(paths):
            rows.append(embeddings)
            skipped += bad
        rows = [part for part in rows if len(part)]
        if not rows:
            raise none_readable(skipped)
        return np.concatenate(rows), skipped

    def embed_batches(
        self, paths: Sequence
    ) -> Iterator[tuple[np.ndarray, list[str], list[SkippedImage]]]:
        """Yield, for each batch: embeddings, their paths, and the skipped files.

        Batches follow the order of `paths`. Only those of the next few requests are in
        memory.
        """
        paths = [str(path) for path in paths]
        sizes = [_size(path) for path in paths]
        groups = _groups(sizes, self.batch_size)
        waiting = collections.deque()
        pool = ThreadPoolExecutor(self.workers)
        try:
            for group in groups:
                names = [paths[i] for i in group]
                waiting.append(pool.submit(self._embed_paths, names))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _embed_paths(self, paths):
        contents, names, skipped = [], [], []
        for path in paths:
            try:
                reason = file_reason(path)
                if reason is None:
                    with open(path, "rb") as file:
                        contents.append(file.read())
                    names.append(path)
            except OSError as error:
                reason = f"it cannot be read: {error.strerror or error}"
            if reason is not None:
                skipped.append(SkippedImage(path, reason))
        embeddings, bad = self._embed_readable(contents)
        reason = "the server cannot decode it, or it has too many pixels"
        skipped += [SkippedImage(names[i], reason) for i in bad]
        bad = set(bad)
        names = [name for i, name in enumerate(names) if i not in bad]
        return embeddings, names, skipped

    def _embed_readable(self, contents):
        """The embeddings of readable files, and the positions of the others."""
        left, bad = list(range(len(contents))), []
        version = self.version if contents else None
        while left:
            try:
                sent = [contents[i] for i in left]
                return self._again(self._predict, sent, version), sorted(bad)
            except UnreadableError as error:
                found = {left[position] for position in error.positions}
                bad += found
                left = [i for i in left if i not in found]
        return np.empty((0, self.units or 0), np.float32), sorted(bad)

    def _predict(self, contents, version):
        count = len(contents)
        try:
            values = self._api.predict(contents, version, self.timeout)
        except UnreadableError as error:
            if error.size == count and all(p < count for p in error.positions):
                raise
            raise UnavailableError(
                f"Expected an answer of {self.server} to the {count} files of this "
                f"request. Received: a failure of {error.size}: it joined several "
                "requests, or cut one. Some file cannot be decoded, perhaps of another "
                "client. Try again, send fewer at once (`batch_size`), or start the "
                "server without `enable_batching`."
            ) from error
        embeddings = checked(values, count, self.units, self.server)
        with self._lock:
            # The size of the first answer is that of all others.
            self.units = self.units or embeddings.shape[1]
        return checked(embeddings, count, self.units, self.server)

    def _again(self, function, *arguments):
        """Call a function; repeat it while the server is not available."""
        wait = _FIRST_WAIT
        for _ in range(self.retries):
            try:
                return function(*arguments)
            except UnavailableError:
                # Random, so that clients that failed together do not retry together.
                time.sleep(wait * random.SystemRandom().uniform(0.75, 1.25))
                wait = min(2 * wait, _LONGEST_WAIT)
        return function(*arguments)


def _api(server, model):
    parts = urllib.parse.urlsplit(server)
    try:
        known = parts.scheme in ("grpc", "grpcs", "http", "https")
        known = known and bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is no number
        known = False
    if not known:
        raise ValueError(
            "Expected the address of a server as grpc://HOST:8500 or http://HOST:8501. "
            f"Received: server={server!r}."
        )
    if parts.scheme in ("http", "https"):
        return RestApi(server, parts, model)
    return GrpcApi(server, parts.netloc, model, secure=parts.scheme == "grpcs")


def _groups(sizes, batch_size):
    """Cut indices, in order, into requests of bounded numbers of files and bytes."""
    groups, total = [], 0
    for i, size in enumerate(sizes):
        full = groups and len(groups[-1]) == batch_size
        if not groups or full or total + size > _REQUEST_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(i)
        total += size
    return groups


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:  # reported when the file is read
        return 0
