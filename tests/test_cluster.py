"""How many workers, with what, and where: without starting any."""

import math
import sys

import pytest
from hypothesis import given, strategies as st

from keras_aploss.workers.cluster import (
    WorkerPlan,
    import_ray,
    plan_workers,
    ray_session,
    worker_environment,
)


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(2, 0)], None, (2, 1, 0)),
        ([(2, 0)], 1, (1, 2, 0)),
        ([(8, 0)], 3, (3, 2, 0)),
        ([(16, 0), (4, 0)], 2, (2, 8, 0)),  # not 10: the small machine has 4
        ([(16, 0), (4, 0)], None, (20, 1, 0)),
        ([(16, 2)], None, (2, 8, 1)),
        ([(16, 2)], 1, (1, 16, 1)),
        ([(16, 2)], 3, (3, 5, 0.5)),  # two on one GPU, one on the other
        ([(16, 1)], 4, (4, 4, 0.25)),
        ([(2, 8)], None, (2, 1, 1)),
        ([(8, 4), (8, 0)], None, (4, 4, 1)),
    ],
)
def test_the_machines_are_divided(nodes, workers, expected):
    assert plan_workers(nodes, workers) == WorkerPlan(*expected)


def test_there_are_no_more_workers_than_shards():
    assert plan_workers([(8, 0)], None, 3) == WorkerPlan(3, 2, 0)
    assert plan_workers([(8, 0)], 2, 3) == WorkerPlan(2, 4, 0)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_all_workers_find_a_place(nodes, workers):
    """Filled one after the other, as a scheduler does: whole GPUs or parts of one."""
    cpus = sum(cpus for cpus, _ in nodes)
    if workers > cpus:
        with pytest.raises(ValueError, match=f"1 to {cpus} workers"):
            plan_workers(nodes, workers)
        return
    plan = plan_workers(nodes, workers)
    assert plan.workers == workers
    assert sum(c // plan.cpus for c, _ in nodes) >= workers
    more = plan.cpus + 1
    assert sum(c // more for c, _ in nodes) < workers  # none could have more
    gpus = sum(gpus for _, gpus in nodes)
    assert (plan.gpus > 0) == (gpus > 0)
    if gpus:
        assert gpus * math.floor(1 / plan.gpus + 1e-9) >= workers


def test_a_worker_keeps_to_what_it_has():
    environment = worker_environment(WorkerPlan(2, 3, 0.0))
    assert environment["TF_NUM_INTRAOP_THREADS"] == "3"
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    shared = worker_environment(WorkerPlan(2, 3, 0.5))
    assert shared["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert "CUDA_VISIBLE_DEVICES" not in shared  # which Ray sets


def test_without_ray_its_extra_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_aploss\[scale\]'"):
        import_ray()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("somewhere", "neither HOST:PORT nor `auto`"),
        ("127.0.0.1:70000", "."),
    ],
)
def test_a_cluster_that_is_not_there_is_told(address, reason):
    pytest.importorskip("ray")
    with (
        pytest.raises(OSError, match=f"a Ray cluster at '{address}'.*{reason}.*--head"),
        ray_session(address),
    ):
        pass
