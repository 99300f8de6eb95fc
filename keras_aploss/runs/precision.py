"""The precision in which the layers of a run are built."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def use_precision(policy: str) -> Iterator[None]:
    """Build layers with a dtype policy; `keras.applications` reads the global one."""
    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept)
