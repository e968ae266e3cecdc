"""Workers with little memory: data goes to disk and comes back the same."""

from __future__ import annotations

import time

import pytest
from distributed import wait

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import array_of, checksum, leak_on_one, on_disk, where_it_ran

TIMEOUT = 60
MEGABYTES = 4
COUNT = 40

# Only the size of the stored data decides, not what the process happens to use beside it.
SPILL_ENV = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.1",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
}


@pytest.mark.parametrize("kind, nanny", [("fastworker", False), ("worker-class", True)])
def test_spilling(launcher, connect, kind, nanny):
    """160 MB where two workers may hold 40 MB each."""
    scheduler = launcher.scheduler()
    for _ in range(2):
        launcher.worker(
            scheduler.address,
            "--nthreads=1",
            "--memory-limit=400MB",
            "--nanny" if nanny else "--no-nanny",
            kind=kind,
            env=SPILL_ENV,
        )
    client = connect(scheduler.address, n_workers=2)
    arrays = client.map(array_of, [MEGABYTES] * COUNT, range(COUNT), pure=False)
    wait(arrays, timeout=TIMEOUT)
    spilled = client.run(on_disk).values()
    assert sum(slow for slow, _ in spilled) >= 15
    assert sum(total for _, total in spilled) == COUNT

    expected = [checksum(array_of(MEGABYTES, seed)) for seed in range(COUNT)]
    assert collect(client, client.map(checksum, arrays, pure=False)) == expected
    assert [checksum(array) for array in client.gather(arrays[:6])] == expected[:6]

    del arrays
    wait_for(
        lambda: not any(total for _, total in client.run(on_disk).values()),
        TIMEOUT,
        "released data leaves memory and disk",
    )


def test_paused_worker_starts_nothing_and_goes_on(launcher, connect):
    """A worker over its pause threshold lets others work; below it again, it works too."""
    scheduler = launcher.scheduler()
    env = {"DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "50ms"}
    for name in ("one", "two"):
        options = ["--nthreads=1", "--no-nanny", f"--name={name}", "--memory-limit=4GB"]
        launcher.worker(scheduler.address, *options, env=env)
    client = connect(scheduler.address, n_workers=2)

    def set_pause_fraction(fraction, dask_worker):
        dask_worker.memory_manager.memory_pause_fraction = fraction

    def status(dask_worker):
        return dask_worker.status.name

    (first, second) = client.run(status)
    client.run(set_pause_fraction, 1e-9, workers=[first])
    wait_for(lambda: client.run(status)[first] == "paused", TIMEOUT, "the worker pauses")
    assert client.run(status)[second] == "running"
    ran_at = collect(client, client.map(where_it_ran, range(20), pure=False))
    assert set(ran_at) == {second}

    stuck = client.submit(where_it_ran, 0, workers=[first], pure=False)
    time.sleep(0.5)
    assert not stuck.done()
    client.run(set_pause_fraction, 0.9, workers=[first])
    assert stuck.result(timeout=TIMEOUT) == first


def test_aleak_on_one_worker_keeps_no_task_from_the_others(launcher, connect):
    """What waits on a worker that is paused for good is run elsewhere."""
    scheduler = launcher.scheduler()
    env = {
        "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "50ms",
        "DASK_FASTWORKER__WORKER__HAND_BACK_AFTER": "200ms",
    }
    for name in ("one", "two", "three"):
        options = ["--nthreads=1", "--no-nanny", f"--name={name}", "--memory-limit=1GB"]
        launcher.worker(scheduler.address, *options, env=env)
    client = connect(scheduler.address, n_workers=3)
    ran_on = collect(client, client.map(leak_on_one, range(300), pure=False))
    assert len(ran_on) == 300
    assert set(ran_on) == {"one", "two", "three"}
    status = client.run(lambda dask_worker: (dask_worker.name, dask_worker.status.name))
    assert sorted(status.values()) == [("one", "paused"), ("three", "running"), ("two", "running")]
