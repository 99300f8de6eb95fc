"""Errors of the client, and the check of embeddings that a server sends.

gRPC and REST report failures by different codes and messages. Both are mapped to these
errors:

| failure | error | sent again |
|---|---|---|
| server down, loading, overloaded | `UnavailableError`, a `ConnectionError` | yes |
| no answer in time | `TimeoutError` | no: it would double the load |
| files that cannot be decoded | `UnreadableError`, a `ValueError` | without them |
| no such model, version or signature | `ValueError` | no |
| no such label | `UnknownLabelError`, a `ValueError` | no |
| anything else | `RuntimeError` | no |

Dimension key: B files in a request, D units.
"""

import numpy as np

from keras_aploss.serving import wire


class UnavailableError(ConnectionError):
    """The server cannot answer now; the same request may succeed later."""


class UnreadableError(ValueError):
    """Some files of a request cannot be decoded.

    Args:
        positions: their positions in the request, ascending; perhaps not all of them.
        size: number of files that the server decoded at once. If more than were sent,
            it joined several requests, and some positions are those of other clients.
    """

    def __init__(self, positions: list[int], size: int):
        super().__init__(
            "Expected readable JPEG, PNG, GIF or BMP files, not too large. Received: "
            f"unreadable bytes at the positions {positions} of {size}."
        )
        self.positions, self.size = positions, size


class UnknownLabelError(ValueError):
    """The server has given no version of the model this label."""


def rejection(
    server: str, model: str, message: str, label: str | None = None
) -> ValueError:
    """The error for a request that the server understood and refused."""
    if label is not None:
        return UnknownLabelError(
            f"Expected a label that {server} has given to a version of {model!r}. "
            f"Received: label={label!r}; the server says: {_one_line(message)} Labels "
            "are given in its `models.config`."
        )
    unreadable = wire.parse_unreadable_error(message)
    if unreadable:
        return UnreadableError(*unreadable)
    return ValueError(
        f"Expected a model with the signature {wire.FILES_SIGNATURE!r} from "
        f"{wire.FILES_INPUT!r} to {wire.OUTPUT!r}, as `keras-aploss export` writes it. "
        f"Received: model={model!r} at {server}, of which the server says: "
        f"{_one_line(message)}"
    )


def not_found(
    server: str,
    model: str,
    version: int | None,
    message: str,
    label: str | None = None,
) -> ValueError | UnavailableError:
    """The error for a model, or a version, that the server does not have.

    A label may be given to a version that is still to be loaded: then asking again
    helps, and another version would be the wrong one.
    """
    if label is not None:
        return UnavailableError(
            f"Expected the version of {model!r} with the label {label!r} at {server}. "
            f"Received: it is not loaded; the server says: {_one_line(message)}"
        )
    what = f"model={model!r}" + (f", version={version}" if version else "")
    return ValueError(
        f"Expected a model that {server} has. Received: {what}; the server says: "
        f"{_one_line(message)} Give the name it is served under, that of its folder; a "
        "version that was replaced in the meantime is gone: start again."
    )


def unavailable(server: str, message: str) -> UnavailableError:
    """The error for a server that is down, or cannot answer now."""
    return UnavailableError(
        f"Expected a model server at {server}. Received: {_one_line(message)} Check "
        "that it runs, and the port: usually 8500 for grpc://, 8501 for http://."
    )


def too_slow(server: str, timeout: float) -> TimeoutError:
    """The error for an answer that did not arrive in time."""
    return TimeoutError(
        f"Expected an answer of {server} within {timeout:g} s. Received: none. Give it "
        "more time (`timeout`), or send fewer images at once (`batch_size`)."
    )


def available_version(server: str, model: str, states: list[tuple]) -> int:
    """The highest version that is available, of `(version, state, message)` tuples.

    Raises:
        UnavailableError: none is available, but one is being loaded.
        ValueError: none is available or loading; quotes the server.
    """
    ready = [version for version, state, _ in states if state == "AVAILABLE"]
    if ready:
        return max(ready)
    shown = ", ".join(
        f"version {version} is {state}" + (f" ({message})" if message else "")
        for version, state, message in states
    )
    if any(state in ("START", "LOADING", "UNKNOWN") for _, state, _ in states):
        raise unavailable(server, f"of model {model!r}, {shown}.")
    raise not_found(server, model, None, f"{shown or 'no version'}.")


def checked(values, count: int, units: int | None, server: str) -> np.ndarray:
    """The received embeddings as (B, D) float32.

    Args:
        values: what the server sent.
        count: B.
        units: D, or None if any size will do.
        server: address, for the messages.

    Raises:
        ValueError: they are no matrix of that shape, or not finite.
    """
    try:
        embeddings = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {count} embeddings of {server}. Received: something other "
            f"than a matrix of numbers: {_one_line(str(error))}"
        ) from error
    wanted = (count, "D" if units is None else units)
    if embeddings.ndim != 2 or len(embeddings) != count or embeddings.shape[1] == 0:
        fits = False
    else:
        fits = units in (None, embeddings.shape[1])
    if not fits:
        raise ValueError(
            f"Expected embeddings of shape {wanted} of {server}. Received: "
            f"{embeddings.shape}. The server has another model: do not mix "
            "embeddings of two models."
        )
    if not np.isfinite(embeddings).all():
        raise ValueError(
            f"Expected finite embeddings of {server}. Received: NaN or infinity. Look "
            "for a diverged model."
        )
    return embeddings


def _one_line(message):
    text = " ".join(message.split())
    text = text if len(text) <= 500 else text[:497] + "..."
    return text if text.endswith((".", "?", "!")) else text + "."
