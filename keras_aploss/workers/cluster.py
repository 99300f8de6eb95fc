"""The number of workers, the resources of each, and the machines they run on.

Ray starts processes on one machine or on many. Each worker reserves processors, which
are also its threads, so that a machine is neither idle nor oversubscribed; and GPUs, or
a part of one, if there are any.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras

# Only numbers of shards and answers of a line go through it; 75 MiB are the least.
_OBJECT_STORE_BYTES = 128 * 2**20


class WorkerPlan(NamedTuple):
    """Number of workers, and the processors and GPUs of each."""

    workers: int
    cpus: int
    gpus: float


def plan_workers(
    nodes: Sequence[tuple[float, float]],
    workers: int | None = None,
    most: int | None = None,
) -> WorkerPlan:
    """Divide the processors and GPUs of machines among workers.

    Args:
        nodes: the number of processors and of GPUs of each machine.
        workers: how many; by default one per GPU or, without any, per processor.
        most: but no more than this, the number of shards.

    Returns:
        As many processors for each worker as all of them can have; a GPU for each, or
        the same part of one.

    Raises:
        ValueError: for more workers than processors, of which some would wait for
            ever.
    """
    cpus = [int(node_cpus) for node_cpus, _ in nodes]
    gpus = sum(int(node_gpus) for _, node_gpus in nodes)
    if workers is None:
        workers = min(gpus, sum(cpus)) if gpus else sum(cpus)
    if not 1 <= workers <= sum(cpus):
        raise ValueError(
            f"Expected 1 to {sum(cpus)} workers, one per processor at most. Received: "
            f"workers={workers}."
        )
    workers = min(workers, most or workers)
    each = max(
        n for n in range(1, max(cpus) + 1) if sum(c // n for c in cpus) >= workers
    )
    return WorkerPlan(workers, each, 1 / -(-workers // gpus) if gpus else 0.0)


def worker_environment(plan: WorkerPlan) -> dict[str, str]:
    """The environment in which a worker keeps to what it has reserved."""
    environment = {
        "KERAS_BACKEND": keras.backend.backend(),
        "TF_NUM_INTRAOP_THREADS": str(plan.cpus),
        "TF_NUM_INTEROP_THREADS": str(plan.cpus),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Several workers may share a GPU: none takes all of its memory.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    return environment if plan.gpus else {**environment, "CUDA_VISIBLE_DEVICES": "-1"}


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator:
    """Join a cluster, or start Ray on this machine, for as long as it is needed.

    What the caller has started or joined already is used, and left as it is.

    Args:
        address: of the head of the cluster, "HOST:6379", or "auto" for the one that
            this machine is part of; None: this machine alone.

    Yields:
        The module `ray`.

    Raises:
        ImportError: Ray is not installed.
        OSError: there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _reach(address)
            ray.init(address, **quiet)
        else:
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    # Where something else than Ray answers, it ends the process.
    except (OSError, ValueError, RuntimeError, SystemExit) as error:
        where = f"a Ray cluster at {address!r}" if address else "Ray to start"
        advice = "`ray start --head` starts one. " if address else ""
        raise OSError(
            f"Expected {where}. Received: {' '.join(str(error).split())}. {advice}"
            "All machines need the same versions of Python and Ray."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address):
    """Connect to the head of a cluster: Ray alone would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("what is neither HOST:PORT nor `auto`.")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
        return


def node_sizes(ray) -> list[tuple[float, float]]:
    """The processors and GPUs of each machine that has any."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(each.get("CPU", 0), each.get("GPU", 0)) for each in resources]
    return [size for size in sizes if size[0] >= 1]


def import_ray():
    """The module `ray`, with `ray.data`, or how to get it."""
    # Ray reads these when it is imported: no statistics are sent, and what it is to do
    # without a GPU has been decided.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its C++ code warns of what Ray Data does by itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "Expected Ray, which starts the workers. Received: "
            f"{error}. Install it: pip install 'keras_aploss[scale]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
