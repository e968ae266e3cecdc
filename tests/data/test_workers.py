"""Workers and their stores: which one they get, and that it spills and gives back."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import distributed
import pytest
from dask import config
from distributed import LocalCluster, Nanny, SchedulerPlugin, wait
from distributed.spill import SpillBuffer
from distributed.utils_test import gen_cluster

import fastworker
from fastworker.data.store import Store
from support.blobs import Blob
from support.spilling import KIB, SPILLING, first_byte, make, settled, type_of_data

ONE_WORKER = [("127.0.0.1", 1)]


BEGUN, TOLD = threading.Event(), threading.Event()


def end_when_told() -> int:
    BEGUN.set()
    return int(TOLD.wait(30))


spilling = gen_cluster(
    client=True,
    nthreads=ONE_WORKER,
    Worker=fastworker.Worker,
    worker_kwargs={"memory_limit": 1000 * KIB},
    config=SPILLING,
    timeout=60,
)


@spilling
async def test_everything_comes_back(c: Any, s: Any, a: Any) -> None:
    """300 KiB where 100 KiB may be in memory, read by tasks, by the client and by hand."""
    assert type(a.data) is Store and a.data is a.state.data is a.memory_manager.data
    assert a.data.n == 100 * KIB
    futures = c.map(make, range(30))
    await wait(futures)
    await settled(a.data)
    assert len(a.data.memory) == 10 and len(a.data.disk) == 20
    assert a.data.fast.total_weight <= a.data.n and not a.data.fast.over_target
    spilled = a.data.spilled_total
    assert spilled.memory == 20 * 10 * KIB and spilled.disk > 0
    assert await c.gather(c.map(first_byte, futures)) == list(range(30))
    assert await c.gather(futures) == [make(i) for i in range(30)]
    assert [a.data[future.key] for future in futures] == [make(i) for i in range(30)]
    assert a.data.cumulative_metrics["disk-read", "count"] >= 20
    assert a.data.cumulative_metrics["memory-read", "count"] >= 1
    del futures
    while a.data:
        await asyncio.sleep(0.01)
    assert a.data.fast.total_weight == 0 and a.data.spilled_total == (0, 0)
    assert os.listdir(a.data._slow_uncached.d.directory) == []


@spilling
async def test_heavier_than_the_target(c: Any, s: Any, a: Any) -> None:
    big = await c.submit(make, 1, 200 * KIB, key="big")
    assert big == make(1, 200 * KIB)
    while "big" in a.data:  # the client has let go of it; the worker hears of that later
        await asyncio.sleep(0.01)
    future = c.submit(make, 2, 200 * KIB, key="kept")
    await wait(future)
    await settled(a.data)
    assert set(a.data.disk) == {"kept"} and not a.data.memory
    assert s.tasks["kept"].nbytes == a.state.tasks["kept"].nbytes >= 200 * KIB
    assert await c.submit(first_byte, future) == 2


@spilling
async def test_heavy_and_not_to_be_pickled(c: Any, s: Any, a: Any) -> None:
    future = c.submit(Blob, "x", 200 * KIB, pickles=False, key="x")
    with pytest.raises(TypeError, match="Failed to pickle 'x'"):
        await future
    assert a.state.tasks["x"].state == "error" and "x" not in a.data
    light = c.submit(Blob, "y", 60 * KIB, pickles=False, key="y")
    more = c.map(make, range(10), [5 * KIB] * 10)
    await wait([light, *more])
    await settled(a.data, unless=light.key)
    assert light.status == "finished"
    assert set(a.data.memory) >= {"y"} and a.data.logged_pickle_errors == {"y"}
    assert await c.gather(more) == [make(i, 5 * KIB) for i in range(10)]


@spilling
async def test_scattered_and_replicated(c: Any, s: Any, a: Any) -> None:
    async with fastworker.Worker(s.address, memory_limit=1000 * KIB) as b:
        values = [make(i, 30 * KIB) for i in range(8)]
        futures = await c.scatter(values, workers=[a.address])
        assert len(a.data.disk) == 5
        await c.replicate(futures, workers=[b.address])
        assert len(b.data) == 8 and len(b.data.disk) == 5
        assert [b.data[future.key] for future in futures] == values


@spilling
async def test_threads_go_on_while_what_is_scattered_makes_room(c: Any, s: Any, a: Any) -> None:
    """A task can end, and its result be stored, while data that comes in pushes other data out."""
    future = c.submit(end_when_told, key="ends")
    assert await asyncio.to_thread(BEGUN.wait, 10)
    stored: list[bool] = []

    class Pushed(Blob):
        __slots__ = ()

        def __reduce__(self) -> Any:
            TOLD.set()
            deadline = time.monotonic() + 10
            while "ends" not in a.data and time.monotonic() < deadline:
                time.sleep(0.001)
            stored.append("ends" in a.data)
            return Blob, (self.name, self.nbytes)

    a.update_data({"first": Pushed("first", 60 * KIB)})
    assert not stored
    a.update_data({"second": Blob("second", 60 * KIB)})
    assert stored == [True]
    assert await future == 1


class SlowToPickle(Blob):
    __slots__ = ()

    def __reduce__(self) -> Any:
        time.sleep(0.02)
        return Blob, (self.name, self.nbytes)


class StartStops(SchedulerPlugin):
    """The actions that the scheduler has heard of with each result, and what was here then."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.actions: dict[Any, list[str]] = {}

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        if finish == "memory":
            self.actions[key] = [each["action"] for each in kwargs.get("startstops", ())]


@spilling
async def test_task_stream_shows_that_a_result_pushes_others_out(c: Any, s: Any, a: Any) -> None:
    """The scheduler hears of it with the result, as with distributed's worker."""
    plugin = StartStops(a)
    s.add_plugin(plugin)
    first = c.submit(SlowToPickle, "x", 60 * KIB, key="pushed")
    await wait(first)
    second = c.submit(Blob, "y", 60 * KIB, key="pushes")
    await wait(second)
    assert plugin.actions == {"pushed": ["compute"], "pushes": ["disk-write", "compute"]}
    assert a.state.tasks["pushes"].startstops[0]["stop"] > 0


@gen_cluster(nthreads=[], config=SPILLING)
async def test_which_data(s: Any) -> None:
    async def data_of(**kwargs: Any) -> Any:
        async with fastworker.Worker(s.address, **kwargs) as worker:
            assert worker.data is worker.state.data is worker.memory_manager.data
            return worker.data

    store = await data_of(memory_limit=1000 * KIB)
    assert type(store) is Store and store.n == 100 * KIB
    assert store._slow_uncached.max_weight is False
    with config.set({"distributed.worker.memory.max-spill": "1 MiB"}):
        store = await data_of(memory_limit=1000 * KIB, data=None)
    assert store._slow_uncached.max_weight == 1024 * KIB
    assert type(await data_of(memory_limit=0)) is dict
    with config.set({"distributed.worker.memory.target": False}):
        assert type(await data_of(memory_limit=1000 * KIB)) is dict
        with config.set({"distributed.worker.memory.spill": 0.5}):
            assert type(await data_of(memory_limit=1000 * KIB)) is Store

    own: dict[Any, Any] = {}
    assert await data_of(memory_limit=1000 * KIB, data=own) is own
    assert type(await data_of(memory_limit=1000 * KIB, data=Mapping)) is Mapping
    assert (await data_of(data=(Mapping, {"a": 1}))).kwargs == {"a": 1}

    def stock(worker_local_directory: str) -> SpillBuffer:
        return SpillBuffer(os.path.join(worker_local_directory, "mine"), 10**6)

    assert type(await data_of(data=stock)) is SpillBuffer


class Mapping(dict):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.kwargs = kwargs


@pytest.mark.parametrize("data", [dict, Mapping])
def test_work_with_other_data(data: Any) -> None:
    @gen_cluster(
        client=True,
        nthreads=ONE_WORKER,
        Worker=fastworker.Worker,
        worker_kwargs={"data": data, "memory_limit": 1000 * KIB},
        config=SPILLING,
        timeout=60,
    )
    async def run(c: Any, s: Any, a: Any) -> None:
        assert type(a.data) is data
        futures = c.map(make, range(5))
        assert await c.gather(c.map(first_byte, futures)) == list(range(5))
        assert {future.key for future in futures} <= set(a.data)
        del futures
        while a.data:
            await asyncio.sleep(0.01)

    run()


@gen_cluster(client=True, nthreads=[], config=SPILLING, timeout=60)
async def test_nanny(c: Any, s: Any) -> None:
    async with Nanny(
        s.address, nthreads=1, worker_class=fastworker.Worker, memory_limit=1000 * KIB
    ):
        answers = await c.run(type_of_data)
        assert list(answers.values()) == [("Store", 100 * KIB)]


def test_local_cluster() -> None:
    with config.set(SPILLING):
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=2,
                processes=False,
                dashboard_address=":0",
                worker_class=fastworker.Worker,
                memory_limit=1000 * KIB,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            assert list(client.run(type_of_data).values()) == [("Store", 100 * KIB)]
            futures = client.map(make, range(30))
            assert client.gather(client.map(first_byte, futures)) == list(range(30))
