"""The lane's counterpart in a client."""

from __future__ import annotations

import asyncio
from functools import partial

import dask
import pytest
from distributed import Client, LocalCluster, Scheduler, Worker
from distributed.batched import BatchedSend
from distributed.utils_test import async_poll_for, gen_cluster, gen_test

from fastworker.scheduler import LowLatencyClient, low_latency_client
from fastworker.scheduler.streams import EagerSend
from support.lane import increment

until = partial(async_poll_for, timeout=20, period=0.01)
cluster = partial(gen_cluster, client=True, timeout=60)


@cluster()
async def test_on_and_off(client, scheduler, a, b):
    stream, before = client.scheduler_comm, set(vars(client))
    attributes = set(vars(stream))
    quick = low_latency_client(client)
    assert client.scheduler_comm is stream and type(stream) is EagerSend
    assert LowLatencyClient.of(client) is quick
    assert low_latency_client(client) is quick
    assert await client.gather(client.map(increment, range(100))) == list(range(1, 101))
    quick.remove()
    assert type(stream) is BatchedSend and set(vars(stream)) == attributes
    assert set(vars(client)) == before and LowLatencyClient.of(client) is None
    quick.remove()
    assert await client.submit(increment, 1000) == 1001
    assert type(low_latency_client(client).client.scheduler_comm) is EagerSend


@cluster()
async def test_beside_another_patch(client, scheduler, a, b):
    connected = []

    async def patch(*args, **kwargs):
        connected.append(args)
        await Client._ensure_connected(client, *args, **kwargs)

    client._ensure_connected = patch
    quick = low_latency_client(client)
    old = client.scheduler_comm
    old.comm.abort()
    await until(lambda: type(client.scheduler_comm) is EagerSend and client.scheduler_comm != old)
    assert connected
    quick.remove()
    assert client._ensure_connected is patch


@cluster()
async def test_below_another_patch(client, scheduler, a, b):
    """A patch that lies over the lane's goes on working when the lane is removed."""
    quick = low_latency_client(client)
    ours = client._ensure_connected

    async def patch(*args, **kwargs):
        await ours(*args, **kwargs)

    client._ensure_connected = patch
    quick.remove()
    assert client._ensure_connected is patch
    old = client.scheduler_comm
    old.comm.abort()
    await until(lambda: client.scheduler_comm not in (None, old))
    await until(lambda: client.status == "running")
    assert type(client.scheduler_comm) is BatchedSend


@cluster()
async def test_its_messages_do_not_wait(client, scheduler, a, b):
    """With an interval of an hour, nothing but an early send gets through."""
    client.scheduler_comm.interval = 3600.0
    low_latency_client(client, busy=1)
    for i in range(10):
        assert await client.submit(increment, i, pure=False) == i + 1


@gen_test()
async def test_the_stream_after_a_reconnection():
    async with Scheduler(dashboard_address=":0", port=0) as scheduler:
        async with Client(scheduler.address, asynchronous=True) as client:
            low_latency_client(client)
            old = client.scheduler_comm
            old.comm.abort()
            await until(lambda: client.scheduler_comm not in (None, old))
            await until(lambda: client.status == "running")
            assert type(client.scheduler_comm) is EagerSend
            async with Worker(scheduler.address):
                assert await client.submit(increment, 1) == 2


@gen_test()
async def test_preloaded():
    config = {"distributed.client.preload": ["fastworker.scheduler"]}
    async with Scheduler(dashboard_address=":0", port=0) as scheduler:
        with dask.config.set(config):
            async with Client(scheduler.address, asynchronous=True) as client:
                assert type(client.scheduler_comm) is EagerSend
                stream = client.scheduler_comm
            assert type(stream) is BatchedSend
            assert LowLatencyClient.of(client) is None
        with dask.config.set({**config, "fastworker.low-latency.client": False}):
            async with Client(scheduler.address, asynchronous=True) as client:
                assert type(client.scheduler_comm) is BatchedSend


@cluster()
async def test_bad_arguments(client, scheduler, a, b):
    with pytest.raises(TypeError, match=r"expected a distributed\.Client"):
        low_latency_client(scheduler)
    with pytest.raises(ValueError, match=r"fastworker\.low-latency\.burst must be"):
        low_latency_client(client, burst=0)
    with pytest.raises(TypeError, match="no low-latency setting 'interval'"):
        low_latency_client(client, interval=0)
    assert type(client.scheduler_comm) is BatchedSend


def test_a_synchronous_client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as local,
        Client(local) as client,
    ):
        quick = low_latency_client(client)
        assert client.gather(client.map(increment, range(50))) == list(range(1, 51))
        quick.remove()
        assert client.submit(increment, 100).result(timeout=30) == 101


def test_neither_keeps_the_other_alive():
    import gc
    import weakref

    async def check():
        async with Scheduler(dashboard_address=":0", port=0) as scheduler:
            client = await Client(scheduler.address, asynchronous=True)
            quick = weakref.ref(low_latency_client(client))
            assert quick() is not None
            await client.close()
            del client
        return quick

    quick = asyncio.run(asyncio.wait_for(check(), 60))
    gc.collect()
    assert quick() is None
