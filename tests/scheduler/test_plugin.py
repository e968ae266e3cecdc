"""The plugin comes and goes; what it leaves behind is a stock scheduler."""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
from functools import partial

import dask
import pytest
from distributed import Client, Scheduler, Worker
from distributed.batched import BatchedSend
from distributed.scheduler import Scheduler as StockScheduler
from distributed.utils_test import async_poll_for, captured_logger, gen_cluster, gen_test

from fastworker.scheduler import LowLatency
from fastworker.scheduler.settings import LowLatencySettings
from fastworker.scheduler.streams import EagerSend
from support.lane import increment

until = partial(async_poll_for, timeout=20, period=0.01)
cluster = partial(gen_cluster, client=True, timeout=60)
ATTRIBUTES = {"WORKER_SATURATION", "stream_comms", "client_comms", "queued", "idle_task_count"}


def streams(scheduler) -> list[BatchedSend]:
    return [*scheduler.stream_comms.values(), *scheduler.client_comms.values()]


def is_stock(scheduler) -> bool:
    expected = vars(BatchedSend(interval="1 ms")).keys()
    return (
        all(type(s) is BatchedSend and vars(s).keys() == expected for s in streams(scheduler))
        and "remove_plugin" not in vars(scheduler)
        and not any(isinstance(p, LowLatency) for p in scheduler.plugins.values())
    )


def is_quick(scheduler) -> bool:
    return all(type(s) is EagerSend for s in streams(scheduler))


def snapshot(scheduler) -> dict:
    """The attributes and hooks of the scheduler that a lane might touch."""
    return {
        "names": set(vars(scheduler)),
        "values": {name: getattr(scheduler, name) for name in ATTRIBUTES},
        "class": {name: id(value) for name, value in vars(StockScheduler).items()},
        "streams": {id(stream): set(vars(stream)) for stream in streams(scheduler)},
        "batched": {name: id(value) for name, value in vars(BatchedSend).items()},
        "plugins": list(scheduler.plugins),
    }


@cluster()
async def test_from_the_client(client, scheduler, a, b):
    before = snapshot(scheduler)
    assert is_stock(scheduler)
    await client.register_plugin(LowLatency())
    assert len(streams(scheduler)) == 3 and is_quick(scheduler)
    assert await client.gather(client.map(increment, range(50))) == list(range(1, 51))
    await client.unregister_scheduler_plugin(LowLatency.name)
    assert is_stock(scheduler)
    assert snapshot(scheduler) == before
    assert await client.submit(increment, 100) == 101
    await client.register_plugin(LowLatency())
    assert is_quick(scheduler)
    assert await client.submit(increment, 200) == 201


@cluster()
async def test_workers_and_clients_that_join_later(client, scheduler, a, b):
    await client.register_plugin(LowLatency())
    async with Worker(scheduler.address) as c, Client(scheduler.address, asynchronous=True) as d:
        await until(lambda: len(scheduler.client_comms) == 2)
        assert c.address in scheduler.stream_comms
        assert is_quick(scheduler) and len(streams(scheduler)) == 5
        assert await d.submit(increment, 1, workers=c.address) == 2
    await until(lambda: len(scheduler.client_comms) == 1 and len(scheduler.workers) == 2)
    assert await client.submit(increment, 2) == 3


@cluster()
async def test_a_client_that_joins_while_the_lane_leaves(client, scheduler, a, b):
    await client.register_plugin(LowLatency())
    plugin = scheduler.plugins[LowLatency.name]
    plugin.add_client(scheduler, client.id)
    plugin.add_client(scheduler, "nobody")
    scheduler.remove_plugin(LowLatency.name)
    await asyncio.sleep(0)
    assert is_stock(scheduler)


@cluster()
async def test_other_plugins_leave_as_ever(client, scheduler, a, b):
    from distributed.diagnostics.plugin import SchedulerPlugin

    await client.register_plugin(LowLatency())
    await client.register_plugin(SchedulerPlugin(), name="other")
    await client.unregister_scheduler_plugin("other")
    assert "other" not in scheduler.plugins and is_quick(scheduler)
    with pytest.raises(ValueError, match="Could not find plugin 'other'"):
        await client.unregister_scheduler_plugin("other")
    assert is_quick(scheduler)


@cluster()
async def test_only_one_at_a_time(client, scheduler, a, b):
    await client.register_plugin(LowLatency(burst=7))
    plugin = scheduler.plugins[LowLatency.name]
    await client.register_plugin(LowLatency(burst=8))  # idempotent
    assert scheduler.plugins[LowLatency.name] is plugin
    assert {s.pace.burst for s in streams(scheduler)} == {7}
    with pytest.raises(RuntimeError, match="has a low-latency lane already"):
        await client.register_plugin(LowLatency(), name="another")
    assert "another" not in scheduler.plugins
    await plugin.start(scheduler)  # as a scheduler does that starts with the plugin
    async with Scheduler(dashboard_address=":0") as other:
        with pytest.raises(RuntimeError, match="at work in another scheduler"):
            await plugin.start(other)
    await client.unregister_scheduler_plugin(LowLatency.name)
    assert is_stock(scheduler)


@cluster()
async def test_switches(client, scheduler, a, b):
    await client.register_plugin(LowLatency(streams=False))
    assert {type(s) for s in streams(scheduler)} == {BatchedSend}
    assert scheduler.plugins[LowLatency.name].queue is not None
    scheduler.remove_plugin(LowLatency.name)
    await client.register_plugin(LowLatency(queue_depth=0))
    assert is_quick(scheduler)
    assert scheduler.plugins[LowLatency.name].queue is None
    assert await client.submit(increment, 1) == 2


@cluster()
async def test_beside_another_patch(client, scheduler, a, b):
    removed = []

    def patch(name=None):
        removed.append(name)
        StockScheduler.remove_plugin(scheduler, name)

    scheduler.remove_plugin = patch
    await client.register_plugin(LowLatency())
    await client.unregister_scheduler_plugin(LowLatency.name)
    assert removed == [LowLatency.name]
    assert scheduler.remove_plugin is patch
    del scheduler.remove_plugin
    assert is_stock(scheduler)


@cluster()
async def test_below_another_patch(client, scheduler, a, b):
    """A patch that lies over the lane's goes on working when the lane is removed and comes back."""
    plugin = LowLatency()
    await client.register_plugin(plugin)
    ours = scheduler.remove_plugin

    def patch(name=None):
        ours(name)

    scheduler.remove_plugin = patch
    await client.unregister_scheduler_plugin(LowLatency.name)
    await client.register_plugin(plugin)
    assert is_quick(scheduler)
    await client.unregister_scheduler_plugin(LowLatency.name)
    assert LowLatency.name not in scheduler.plugins
    assert scheduler.remove_plugin is patch
    del scheduler.remove_plugin
    assert is_stock(scheduler)


@cluster()
async def test_a_bad_configuration_reaches_the_client(client, scheduler, a, b):
    before = snapshot(scheduler)
    with dask.config.set({"fastworker.low-latency.burst": "many"}):
        with pytest.raises(ValueError, match=r"fastworker\.low-latency\.burst must be a whole"):
            await client.register_plugin(LowLatency())
    assert is_stock(scheduler) and snapshot(scheduler) == before


def test_the_preload_in_a_scheduler():
    async def check():
        async with Scheduler(
            dashboard_address=":0", preload="fastworker.scheduler", port=0
        ) as scheduler:
            async with Worker(scheduler.address, nthreads=1):
                async with Client(scheduler.address, asynchronous=True) as client:
                    await until(lambda: is_quick(scheduler))
                    assert len(streams(scheduler)) == 2
                    assert await client.submit(increment, 1) == 2
                    plugin = scheduler.plugins[LowLatency.name]
        assert plugin.scheduler is None
        assert is_stock(scheduler)

    asyncio.run(asyncio.wait_for(check(), 60))


def test_the_preload_with_a_bad_value():
    """The scheduler, or the client, runs on, and one line says that it does without the lane."""

    async def check():
        preload = "fastworker.scheduler"
        config = {"fastworker.low-latency.burst": -1, "distributed.client.preload": [preload]}
        with (
            dask.config.set(config),
            captured_logger("distributed", level=logging.WARNING) as others,
            captured_logger("fastworker.scheduler", level=logging.WARNING) as log,
        ):
            async with (
                Scheduler(dashboard_address=":0", preload=preload, port=0) as scheduler,
                Worker(scheduler.address, nthreads=1),
                Client(scheduler.address, asynchronous=True) as client,
            ):
                assert await client.submit(increment, 1) == 2
                assert is_stock(scheduler)
        why = "fastworker.low-latency.burst must be a whole number, at least 1; got -1"
        assert log.getvalue().splitlines() == [
            f"This {kind} runs without the low-latency lane: {why}"
            for kind in ("scheduler", "client")
        ]
        assert "Traceback" not in others.getvalue()

    asyncio.run(asyncio.wait_for(check(), 60))


@gen_cluster(nthreads=[], timeout=60)
async def test_the_preload_in_a_worker(scheduler):
    """One line, no traceback, and a worker that works."""
    with captured_logger("fastworker.scheduler") as log, captured_logger("distributed") as others:
        async with Worker(scheduler.address, preload="fastworker.scheduler") as worker:
            assert worker.status.name == "running"
    assert log.getvalue().count("\n") == 1
    assert "preloaded into a Worker it does nothing" in log.getvalue()
    assert "Traceback" not in others.getvalue()


@gen_test()
async def test_the_whole_package_as_a_preload():
    """`--preload fastworker`: there is one thing that it can mean."""
    async with Scheduler(preload="fastworker", port=0, dashboard_address=":0") as scheduler:
        assert not is_stock(scheduler)
    assert is_stock(scheduler)


@cluster(nthreads=[])
async def test_a_scheduler_without_the_package(client, scheduler, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastworker", None)
    monkeypatch.setitem(sys.modules, "fastworker.scheduler", None)
    with pytest.raises(ImportError, match="needs fastworker where the scheduler runs") as raised:
        await client.register_plugin(LowLatency())
    assert sys.executable in str(raised.value) and "\n" not in str(raised.value)
    assert is_stock(scheduler)


def test_pickle():
    plugin = pickle.loads(pickle.dumps(LowLatency(queue_depth=3, tiny_duration="2 ms")))
    assert plugin.overrides == {"queue_depth": 3, "tiny_duration": "2 ms"}
    with pytest.raises(TypeError, match="no low-latency setting 'depth'"):
        LowLatency(depth=3)


def test_settings_are_in_seconds_and_bytes():
    settings = LowLatencySettings.load({"tiny_duration": "2 ms", "tiny_nbytes": "1 MiB", "busy": 1})
    assert (settings.tiny_duration, settings.tiny_nbytes, settings.busy) == (0.002, 2**20, 1.0)
    assert settings.burst == 16
    with dask.config.set({"fastworker.low-latency.queue-work": 3}):
        assert LowLatencySettings.load().queue_work == 3.0


@pytest.mark.parametrize(
    "key, value",
    [
        ("streams", 1),
        ("client", "yes"),
        ("burst", 0),
        ("burst", True),
        ("burst", 1.5),
        ("busy", 0),
        ("busy", 1.01),
        ("busy", None),
        ("queue-depth", -1),
        ("queue-work", "soon"),
        ("queue-work", 0),
        ("queue-work", "inf s"),
        ("queue-memory", 2),
        ("tiny-duration", None),
        ("tiny-duration", []),
        ("tiny-nbytes", "large"),
        ("tiny-nbytes", -1),
        ("tiny-nbytes", float("inf")),
        ("tiny-nbytes", float("nan")),
        ("proven", 0),
    ],
)
def test_bad_values_name_their_key(key, value):
    with dask.config.set({f"fastworker.low-latency.{key}": value}):
        with pytest.raises(ValueError, match=rf"^fastworker\.low-latency\.{key} must be .*; got "):
            LowLatencySettings.load()
    with pytest.raises(ValueError, match=key):
        LowLatency(**{key.replace("-", "_"): value})
