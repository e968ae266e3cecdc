"""The lane in a real ``dask scheduler``, with worker processes of both kinds."""

from __future__ import annotations

import operator
import signal

import pytest
from distributed import Client

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import pid_where_it_ran
from support.lane import Depths, increment, most_on_a_worker, result_of_size, stream_types

PRELOAD = ["--preload", "fastworker.scheduler"]
ONE_THREAD = ["--nthreads", "1", "--no-nanny"]


def tree(client: Client, leaves: int):
    layer = client.map(increment, range(leaves), pure=False)
    while len(layer) > 1:
        odd = [layer.pop()] if len(layer) % 2 else []
        layer = client.map(operator.add, layer[::2], layer[1::2], pure=False) + odd
    return layer[0]


def chain(client: Client, steps: int):
    future = client.submit(increment, 0, pure=False)
    for _ in range(steps - 1):
        future = client.submit(increment, future, pure=False)
    return future


def everything(client: Client) -> None:
    assert collect(client, client.map(increment, range(1000), pure=False)) == [*range(1, 1001)]
    assert collect(client, [tree(client, 301)]) == [sum(range(1, 302))]
    assert collect(client, [chain(client, 100)]) == [100]
    with pytest.raises(ZeroDivisionError):
        client.submit(operator.truediv, 1, 0).result(timeout=30)


@pytest.mark.parametrize("kind", ["stock", "fastworker"])
def test_results(launcher, connect, kind):
    scheduler = launcher.scheduler(*PRELOAD)
    for _ in range(2):
        launcher.worker(scheduler.address, *ONE_THREAD, kind=kind)
    client = connect(scheduler.address, 2)
    assert client.run_on_scheduler(stream_types) == {
        "workers": ["EagerSend"] * 2,
        "clients": ["EagerSend"],
    }
    client.register_plugin(Depths())
    everything(client)
    assert client.run_on_scheduler(most_on_a_worker) > 2
    client.unregister_scheduler_plugin("fastworker-low-latency")
    assert client.run_on_scheduler(stream_types) == {
        "workers": ["BatchedSend"] * 2,
        "clients": ["BatchedSend"],
    }
    everything(client)
    log = scheduler.text()
    assert log.count("Low-latency lane installed") == 1
    assert log.count("Low-latency lane removed") == 1


@pytest.mark.parametrize("kind", ["stock", "fastworker"])
def test_large_root_tasks_are_sent_as_in_stock(launcher, connect, kind):
    scheduler = launcher.scheduler(*PRELOAD)
    launcher.worker(scheduler.address, *ONE_THREAD, kind=kind)
    client = connect(scheduler.address, 1)
    client.register_plugin(Depths())
    futures = client.map(result_of_size, range(150), nbytes=200_000, pure=False)
    sizes = collect(client, client.map(len, futures, pure=False))
    assert sizes == [200_000] * 150
    # What uses their results is not held back in stock either.
    roots = client.run_on_scheduler(most_on_a_worker, prefix="result_of_size")
    assert roots == 2


def test_a_killed_worker(launcher, connect):
    scheduler = launcher.scheduler(*PRELOAD)
    workers = [launcher.worker(scheduler.address, *ONE_THREAD) for _ in range(2)]
    client = connect(scheduler.address, 2)
    futures = client.map(increment, range(3000), pure=False)
    wait_for(lambda: sum(f.done() for f in futures) > 200, 30, "some tasks are done")
    workers[0].signal(signal.SIGKILL)
    workers[0].wait(10)
    assert collect(client, futures) == [*range(1, 3001)]
    launcher.worker(scheduler.address, *ONE_THREAD, kind="stock")
    wait_for(lambda: len(client.nthreads()) == 2, 30, "the other one joined")
    pids = collect(client, client.map(pid_where_it_ran, range(200), pure=False))
    assert workers[0].pid not in pids
    everything(client)


def test_clients_come_and_go(launcher, connect):
    scheduler = launcher.scheduler(*PRELOAD)
    launcher.worker(scheduler.address, *ONE_THREAD)
    first = connect(scheduler.address, 1)
    for n in range(5):
        with Client(scheduler.address, set_as_default=False) as another:
            assert another.submit(increment, n, pure=False).result(timeout=30) == n + 1
            future = first.submit(increment, n, pure=False)
            assert future.result(timeout=30) == n + 1
            abandoned = another.map(increment, range(500), pure=False)
        del abandoned
    wait_for(
        lambda: first.run_on_scheduler(stream_types)["clients"] == ["EagerSend"],
        30,
        "the others are gone",
    )
    everything(first)


def test_it_leaves_with_the_scheduler(launcher, connect):
    scheduler = launcher.scheduler(*PRELOAD)
    launcher.worker(scheduler.address, *ONE_THREAD)
    client = connect(scheduler.address, 1)
    everything(client)
    client.close()
    scheduler.ask_to_stop()
    scheduler.wait(20)
    log = scheduler.text()
    assert log.count("Low-latency lane removed") == 1
    assert "Traceback" not in log


def test_a_bad_configuration_is_in_the_log(launcher, connect):
    env = {"DASK_FASTWORKER__LOW_LATENCY__BUSY": "7"}
    scheduler = launcher.scheduler(*PRELOAD, env=env)
    message = "fastworker.low-latency.busy must be a number above 0 and at most 1; got 7"
    wait_for(lambda: message in scheduler.text(), 20, "it is logged")
    launcher.worker(scheduler.address, *ONE_THREAD)
    client = connect(scheduler.address, 1)
    assert client.run_on_scheduler(stream_types)["workers"] == ["BatchedSend"]
    everything(client)
