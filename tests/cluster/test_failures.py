"""Workers and schedulers that die, hang, leave and join while work runs."""

from __future__ import annotations

import operator
import os
import signal
import time

import pytest
from distributed import wait

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import (
    add,
    array_of,
    checksum,
    sleep_and_return,
    unique_token,
    where_it_ran,
)

TIMEOUT = 60


def start_tree(client, leaves, seconds):
    """A binary tree of slow leaves; its root's result is ``sum(range(leaves))``."""
    level = client.map(sleep_and_return, range(leaves), seconds=seconds, pure=False)
    everything = list(level)
    while len(level) > 1:
        level = client.map(operator.add, level[::2], level[1::2], pure=False)
        everything += level
    return level[0], everything


def done(futures):
    return sum(future.done() for future in futures)


def test_worker_killed_without_nanny(launcher, connect):
    scheduler = launcher.scheduler()
    workers = [
        launcher.worker(scheduler.address, "--nthreads=2", "--no-nanny", kind=kind)
        for kind in ("fastworker", "worker-class", "worker-class")
    ]
    client = connect(scheduler.address, n_workers=3)
    root, futures = start_tree(client, 256, 0.01)
    wait_for(lambda: done(futures) > 100, TIMEOUT, "a good part of the tree is done")
    assert not root.done()
    workers[0].signal(signal.SIGKILL)
    assert root.result(timeout=TIMEOUT) == sum(range(256))
    wait_for(lambda: len(client.nthreads()) == 2, TIMEOUT, "the scheduler dropped the dead worker")
    # What was only on the dead worker is made again, and right.
    assert collect(client, futures[:256]) == list(range(256))


def test_worker_killed_under_its_nanny(launcher, connect):
    scheduler = launcher.scheduler()
    for kind in ("fastworker", "worker-class"):
        launcher.worker(scheduler.address, "--nthreads=2", "--nanny", kind=kind)
    client = connect(scheduler.address, n_workers=2)
    pids = client.run(os.getpid)
    root, futures = start_tree(client, 256, 0.01)
    wait_for(lambda: done(futures) > 100, TIMEOUT, "a good part of the tree is done")
    assert not root.done()
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    assert root.result(timeout=TIMEOUT) == sum(range(256))
    client.wait_for_workers(2, timeout=TIMEOUT)
    wait_for(
        lambda: len(set(client.run(os.getpid).values()) - set(pids.values())) == 1,
        TIMEOUT,
        "the nanny started another worker",
    )


def test_worker_killed_while_peers_fetch_from_it(launcher, connect):
    """Data in flight is lost with the worker that sends it; it is made again elsewhere."""
    scheduler = launcher.scheduler()
    victim = launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny", "--name=victim")
    for name in ("one", "two"):
        launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny", f"--name={name}")
    client = connect(scheduler.address, n_workers=3)
    made = [
        client.submit(array_of, 8, seed, workers="victim", allow_other_workers=True)
        for seed in range(8)
    ]
    wait(made, timeout=TIMEOUT)
    sums = [
        client.submit(checksum, array, workers=["one", "two"], pure=False)
        for array in made
        for _ in range(4)
    ]
    wait_for(lambda: done(sums) > 0, TIMEOUT, "the first transfer is done")
    victim.signal(signal.SIGKILL)
    expected = [checksum(array_of(8, seed)) for seed in range(8) for _ in range(4)]
    assert collect(client, sums) == expected


@pytest.mark.parametrize("stopped", ["sender", "receiver"])
def test_worker_stopped_and_continued_during_transfers(launcher, connect, stopped):
    scheduler = launcher.scheduler()
    processes = {
        name: launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny", f"--name={name}")
        for name in ("sender", "receiver")
    }
    client = connect(scheduler.address, n_workers=2)
    made = [client.submit(array_of, 10, seed, workers="sender") for seed in range(12)]
    wait(made, timeout=TIMEOUT)
    sums = [client.submit(checksum, array, workers="receiver") for array in made]
    wait_for(lambda: done(sums) > 0, TIMEOUT, "the first transfer is done")
    processes[stopped].signal(signal.SIGSTOP)
    time.sleep(1.5)
    if stopped == "receiver":
        assert done(sums) < len(sums)
    processes[stopped].signal(signal.SIGCONT)
    assert collect(client, sums) == [checksum(array_of(10, seed)) for seed in range(12)]


def test_worker_leaves_when_the_scheduler_dies(launcher, connect):
    scheduler = launcher.scheduler()
    options = ["--nthreads=1", "--death-timeout=20"]
    workers = [
        launcher.worker(scheduler.address, *options, "--no-nanny"),
        launcher.worker(scheduler.address, *options, "--no-nanny", kind="worker-class"),
        launcher.worker(scheduler.address, *options, "--nanny", kind="worker-class"),
    ]
    client = connect(scheduler.address, n_workers=3)
    busy = client.map(sleep_and_return, range(50), seconds=0.1)
    wait_for(lambda: done(busy) > 0, TIMEOUT, "the first task is done")
    client.close()
    scheduler.signal(signal.SIGKILL)
    for worker in workers:
        worker.wait(timeout=30)


def test_worker_leaves_when_the_scheduler_closes(launcher, connect):
    scheduler = launcher.scheduler()
    worker = launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny")
    client = connect(scheduler.address, n_workers=1)
    client.shutdown()
    assert scheduler.wait(timeout=30) == 0
    assert worker.wait(timeout=30) == 0


def test_terminated_worker_leaves_at_once(launcher, connect):
    scheduler = launcher.scheduler()
    workers = [
        launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny"),
        launcher.worker(scheduler.address, "--nthreads=1", "--nanny", kind="worker-class"),
    ]
    client = connect(scheduler.address, n_workers=2)
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        worker.wait(timeout=30)
    wait_for(lambda: not client.nthreads(), TIMEOUT, "the scheduler dropped both workers")


def test_no_scheduler_there(launcher):
    """Nothing listens: the worker gives up after its death timeout with a failure status."""
    worker = launcher.worker("tcp://127.0.0.1:9", "--no-nanny", "--death-timeout=2")
    assert worker.wait(timeout=30) != 0


def test_worker_joins_mid_run(launcher, connect):
    scheduler = launcher.scheduler()
    launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny")
    client = connect(scheduler.address, n_workers=1)
    futures = client.map(where_it_ran, range(300), seconds=0.02, pure=False)
    wait_for(lambda: done(futures) > 10, TIMEOUT, "the first tasks are done")
    launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny", kind="worker-class")
    ran_at = collect(client, futures)
    assert len(ran_at) == 300
    assert set(ran_at) == set(client.nthreads())
    assert len(set(ran_at)) == 2


def test_worker_joins_and_steals(launcher, connect):
    """Work already assigned moves to a worker that joins: all inputs are on the first."""
    scheduler = launcher.scheduler()
    launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny")
    client = connect(scheduler.address, n_workers=1)
    (token,) = client.scatter([1])
    futures = [
        client.submit(where_it_ran, token, seconds=0.05, pure=False, key=f"steal-me-{i}")
        for i in range(200)
    ]
    wait_for(lambda: done(futures) > 2, TIMEOUT, "the first tasks are done")
    launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny")

    def places():
        return {future.result() for future in futures if future.done()}

    wait_for(lambda: len(places()) == 2, TIMEOUT, "the second worker ran a task")
    client.cancel(futures)


def test_retired_worker_hands_over_its_data(launcher, connect):
    scheduler = launcher.scheduler()
    for kind in ("fastworker", "worker-class", "stock"):
        options = ["--nthreads=1", "--no-nanny", f"--name={kind}"]
        launcher.worker(scheduler.address, *options, kind=kind)
    client = connect(scheduler.address, n_workers=3)
    tokens = client.map(unique_token, range(60), pure=False)
    scattered = client.scatter(list(range(30)))
    before = collect(client, tokens)
    client.retire_workers(names=["fastworker"])
    wait_for(lambda: len(client.nthreads()) == 2, TIMEOUT, "the retired worker left")
    # The same bytes: moved, not computed again. Scattered data could not be at all.
    assert collect(client, tokens) == before
    assert collect(client, scattered) == list(range(30))


def test_total_survives_many_deaths(launcher, connect):
    """One worker after the other dies while one takes its place."""
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10"}
    scheduler = launcher.scheduler(env=env)
    workers = [launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny") for _ in range(2)]
    client = connect(scheduler.address, n_workers=2)
    leaves = client.map(sleep_and_return, range(250), seconds=0.02, pure=False)
    total = client.submit(add, *leaves)
    for goal in (50, 120):
        wait_for(lambda goal=goal: done(leaves) > goal, TIMEOUT, "some more tasks are done")
        workers.append(launcher.worker(scheduler.address, "--nthreads=1", "--no-nanny"))
        client.wait_for_workers(2, timeout=TIMEOUT)
        workers.pop(0).signal(signal.SIGKILL)
    assert total.result(timeout=TIMEOUT) == sum(range(250))
