"""``fastworker.LocalCluster``, and what distributed's does with our classes."""

from __future__ import annotations

import asyncio
import os
import warnings

import dask
import distributed
import pytest

import fastworker
from fastworker.deploy.lane import add_lane
from support.own_classes import OwnNanny, OwnWorker, process_and_class

SMALL = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}


def workers_of(client):
    return list(client.run(process_and_class).values())


@pytest.mark.parametrize(
    "asked, found",
    [
        ({}, "Worker"),
        ({"processes": None}, "Worker"),
        ({"worker_class": OwnWorker}, "OwnWorker"),
        ({"worker_class": fastworker.Nanny}, "Worker"),
        ({"worker_class": OwnNanny, "lane": False}, "Worker"),
    ],
)
def test_workers_are_processes_with_nannies(asked, found):
    with fastworker.LocalCluster(**SMALL, **asked) as cluster, cluster.get_client() as client:
        assert client.submit(sum, [1, 2, 3]).result() == 6
        ((process, name),) = workers_of(client)
        assert (process != os.getpid(), name) == (True, found)
        assert all(isinstance(nanny, fastworker.Nanny) for nanny in cluster.workers.values())
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        assert [name for _, name in workers_of(client)] == [found] * 2


def test_arguments_by_position():
    with fastworker.LocalCluster(
        "mine", 2, 3, False, dashboard_address=":0", scheduler_port=0
    ) as cluster:
        assert cluster.name == "mine"
        assert [worker.state.nthreads for worker in cluster.workers.values()] == [3, 3]


@pytest.mark.parametrize("lane", [True, False])
def test_the_lane_is_in_the_scheduler_and_its_client(lane):
    with fastworker.LocalCluster(**SMALL, processes=False, lane=lane) as cluster:
        client = cluster.get_client()
        assert workers_of(client) == [(os.getpid(), "Worker")]
        assert ("fastworker-low-latency" in cluster.scheduler.plugins) == lane
        assert (type(client.scheduler_comm).__name__ == "EagerSend") == lane
        assert cluster.get_client() is client
        client.close()


def test_a_client_that_is_not_to_have_the_lane():
    with (
        dask.config.set({"fastworker.low-latency.client": False}),
        fastworker.LocalCluster(**SMALL, processes=False) as cluster,
        cluster.get_client() as client,
    ):
        assert type(client.scheduler_comm).__name__ == "BatchedSend"


@pytest.mark.parametrize("asynchronously", ["get_client", "Client"])
def test_on_an_event_loop(asynchronously):
    async def job():
        async with fastworker.LocalCluster(**SMALL, processes=False, asynchronous=True) as cluster:
            if asynchronously == "get_client":
                client = cluster.get_client()
            else:
                client = distributed.Client(cluster, asynchronous=True)
            async with client:
                assert await client.submit(sum, [1, 2, 3]) == 6
                return type(client.scheduler_comm).__name__

    expected = {"get_client": "EagerSend", "Client": "BatchedSend"}
    assert asyncio.run(job()) == expected[asynchronously]


@pytest.mark.parametrize(
    "asked, error, text",
    [
        ({"worker_class": int}, TypeError, "worker_class must be a class of workers or nannies"),
        ({"worker_class": "Worker"}, TypeError, "not 'Worker'"),
        ({"worker_class": OwnNanny, "processes": False}, ValueError, "OwnNanny starts"),
    ],
)
def test_what_is_no_worker_class(asked, error, text):
    with pytest.raises(error, match=text):
        fastworker.LocalCluster(**SMALL, **asked)


@pytest.mark.parametrize(
    "options, preload, argv",
    [
        ({}, ["configured", "fastworker.scheduler"], None),
        ({"preload": ()}, ["configured", "fastworker.scheduler"], None),
        ({"preload": "one"}, ["one", "fastworker.scheduler"], None),
        ({"preload": ["fastworker"]}, ["fastworker"], None),
        ({"preload": ("one", "fastworker.scheduler")}, ["one", "fastworker.scheduler"], None),
        ({"preload": ["one"], "preload_argv": ["-x"]}, ["one", "fastworker.scheduler"], ["-x"]),
        (
            {"preload": ["one"], "preload_argv": [["-x"]]},
            ["one", "fastworker.scheduler"],
            [["-x"], []],
        ),
    ],
)
def test_what_the_scheduler_preloads(options, preload, argv):
    with dask.config.set({"distributed.scheduler.preload": ["configured"]}):
        add_lane(options)
    assert options["preload"] == preload
    assert options.get("preload_argv") == argv


def test_distributeds_cluster_says_that_it_starts_no_processes():
    with pytest.warns(
        UserWarning, match=r"LocalCluster\(worker_class=OwnWorker, processes=True\)"
    ) as w:
        with distributed.LocalCluster(
            **{**SMALL, "n_workers": 2}, processes=True, worker_class=OwnWorker
        ) as cluster:
            assert len(cluster.workers) == 2
    ours = [warning for warning in w if "fastworker.LocalCluster" in str(warning.message)]
    assert len(ours) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"worker_class": fastworker.Worker, "processes": False},
        {"worker_class": fastworker.Nanny},
    ],
)
def test_distributeds_cluster_that_does_what_it_says(asked):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with distributed.LocalCluster(**SMALL, **asked) as cluster:
            assert len(cluster.workers) == 1
