"""That a cluster which was asked for our workers really runs them, by every way to ask."""

from __future__ import annotations

import os

import pytest
from distributed import Client, LocalCluster

import fastworker
from fastworker.core import TaskState, WorkerState
from support.cluster.launcher import collect
from support.cluster.tasks import classes_in_use, increment


def assert_ours(client, n_workers):
    futures = client.map(increment, range(50))
    assert collect(client, futures) == list(range(1, 51))
    found = client.run(classes_in_use)
    assert len(found) == n_workers
    for classes in found.values():
        assert classes["worker"] == "fastworker.worker.Worker"
        assert classes["state"] == f"{WorkerState.__module__}.{WorkerState.__qualname__}"
        assert classes["task"] == {f"{TaskState.__module__}.{TaskState.__qualname__}"}
    for info in client.scheduler_info(n_workers=-1)["workers"].values():
        assert info["type"] == "Worker"


@pytest.mark.parametrize(
    "kind, options, n_workers",
    [
        ("fastworker", ["--no-nanny"], 1),
        ("fastworker", ["--nworkers=2"], 2),
        ("worker-class", ["--no-nanny"], 1),
        ("worker-class", ["--nanny"], 1),
    ],
)
def test_commands(launcher, connect, kind, options, n_workers):
    scheduler = launcher.scheduler()
    launcher.worker(scheduler.address, "--nthreads=1", *options, kind=kind)
    assert_ours(connect(scheduler.address, n_workers), n_workers)


@pytest.mark.parametrize("processes", [True, False])
def test_local_cluster(processes):
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=processes,
        worker_class=fastworker.Worker,
        dashboard_address=None,
    ) as cluster:
        with Client(cluster) as client:
            assert_ours(client, 2)


def test_local_cluster_of_processes():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, worker_class=fastworker.Nanny, dashboard_address=None
    ) as cluster:
        with Client(cluster) as client:
            assert_ours(client, 2)
            assert os.getpid() not in client.run(os.getpid).values()
            assert client.submit(sum, client.map(abs, range(-9, 0))).result(timeout=30) == 45


def test_state_classes_are_not_stock():
    """Otherwise every check above proves nothing."""
    for cls in (WorkerState, TaskState):
        assert cls.__module__.partition(".")[0] == "fastworker"
