"""Messages read off real connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import operator
import struct
from collections import Counter

import dask
import numpy as np
import pytest
from dask.utils_test import inc
from distributed.comm import CommClosedError, connect, listen
from distributed.comm import utils as comm_utils
from distributed.protocol import to_serialize
from distributed.protocol.serialize import ToPickle
from distributed.protocol.utils import pack_frames
from distributed.security import Security
from distributed.utils_test import gen_cluster, gen_test

import fastworker
import fastworker.link.reader
from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.link.decode import decode
from fastworker.link.reader import AT_ONCE, SchedulerStream
from fastworker.wire import WireError
from support.wire.messages import as_stock, compute_task, frames_of, free_keys, same, stock


@contextlib.asynccontextmanager
async def connection(address="tcp://127.0.0.1", **options):
    """Both ends of a connection."""
    accepted = asyncio.get_running_loop().create_future()

    async def accept(comm):
        accepted.set_result(comm)

    async with listen(address, accept, **options.get("listen", {})) as listener:
        near = await connect(listener.contact_address, **options.get("connect", {}))
        far = await accepted
        try:
            yield near, far
        finally:
            await near.close()
            await far.close()


BATCH = [
    compute_task(),
    free_keys("x"),
    {"op": "other", "set": {1}, "value": to_serialize(np.arange(10))},
    compute_task(run_spec=ToPickle(np.arange(200_000)), nbytes={"x": 1}),
]
KINDS = [ComputeTask, FreeKeys, dict, ComputeTask]


def tls():
    security = Security.temporary()
    return {
        "address": "tls://127.0.0.1",
        "listen": security.get_listen_args("scheduler"),
        "connect": security.get_connection_args("worker"),
    }


@pytest.mark.usefixtures("either_comm")
@pytest.mark.parametrize("offload", [False, 100_000], ids=["here", "in-a-thread"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "dicts"])
@pytest.mark.parametrize("options", [dict, tls], ids=["tcp", "tls"])
@gen_test()
async def test_reading(monkeypatch, options, native, offload):
    monkeypatch.setattr(comm_utils, "OFFLOAD_THRESHOLD", offload)
    async with connection(**options()) as (near, far):
        messages = []

        def take(together):
            messages.extend(together)
            return True

        stream = SchedulerStream(near, take if native else None)
        for batch in (BATCH, BATCH[1], [], BATCH * 3):
            await far.write(batch)
        # What is read off a socket can be written to
        expected = stock([memoryview(bytearray(frame)) for frame in frames_of(BATCH)])
        for times in (1, None, 0, 3):
            batch = await stream.read()
            messages.clear()
            for message in batch:
                messages.append(message)  # noqa: PERF402 - as it comes, among those taken
            assert isinstance(batch, list)
            assert not native or batch == []  # nothing is kept until the next one is read
            if times is None:
                assert [as_stock(m) for m in messages] == [expected[1]]
                continue
            assert same([as_stock(m) for m in messages], expected * times)
            kinds = KINDS if native else [dict] * 4
            assert [type(m) for m in messages] == kinds * times


class NotHere:
    def __reduce__(self):
        return int, ("no number",)


@gen_test()
async def test_messages_are_taken_together_and_in_order():
    """Up to `AT_ONCE` that follow each other; what is for a handler comes between them."""
    async with connection() as (near, far):
        taken = []

        def take(messages):
            taken.append(len(messages))
            return True

        stream = SchedulerStream(near, take)
        unloadable = compute_task(key="unloadable", run_spec=ToPickle(NotHere()))
        some, more = [compute_task()] * (2 * AT_ONCE + 3), [free_keys("x")] * 2
        await far.write([*some, unloadable, *more, {"op": "other"}])
        for message in await stream.read():
            assert type(message) is dict
            taken.append(message["op"])
        assert taken == [AT_ONCE, AT_ONCE, 3, "compute-task", 2, "other"]
        taken.clear()
        many = free_keys(*map(str, range(AT_ONCE)))  # as long as so many messages
        await far.write([*more, many, *more])
        assert list(await stream.read()) == []
        assert taken == [3, 2]


@gen_test()
async def test_messages_that_are_not_taken_are_dicts():
    async with connection() as (near, far):
        refused = []

        def refuse(messages):
            refused.append(len(messages))
            return False

        await far.write(BATCH * 2)
        batch = await SchedulerStream(near, refuse).read()
        ops = [message["op"] for message in batch]
        assert ops == ["compute-task", "free-keys", "other", "compute-task"] * 2
        assert refused == [2, 3, 1] and batch == []


@gen_test()
async def test_reading_where_objects_are_passed():
    async with connection("inproc://") as (near, far):
        stream = SchedulerStream(near, pytest.fail)
        for message in ([{"op": "x"}, {"op": "y"}], "OK"):
            await far.write(message)
        assert await stream.read() == [{"op": "x"}, {"op": "y"}]
        assert await stream.read() == ["OK"]


HEADS = {
    "too-short": struct.pack("=QI", 4, 0),
    "too-many-frames": struct.pack("=QQ", 8, 2**61),
    "no-memory-for-the-head": struct.pack("=Q", 2**62),
    "too-large-a-head": struct.pack("=Q", 2**64 - 1),
    "no-memory-for-a-frame": struct.pack("=QQQ", 16, 1, 2**47),
    "too-large-a-frame": struct.pack("=QQQ", 16, 1, 2**64 - 1),
    "bytes-to-spare": struct.pack("=QQI", 12, 0, 0),
    "no-frames": struct.pack("=QQ", 8, 0),
    "no-message": struct.pack("=QQQB", 17, 1, 1, 0xC1),
}


@pytest.mark.parametrize("name", HEADS)
@gen_test()
async def test_reading_rubbish(name, either_comm):
    async with connection() as (near, far):
        # With the number of frames, which the native comm looks at together with the length
        far.stream.socket.sendall(HEADS[name].ljust(16, b"\0"))
        # The native comm cuts such a peer off itself, if the bytes are no message to it
        cut_off = either_comm == "native" and name != "no-message"
        with pytest.raises(CommClosedError if cut_off else WireError):
            await SchedulerStream(near).read()
        assert near.closed() or not cut_off


@pytest.mark.usefixtures("either_comm")
@gen_test()
async def test_reading_what_ends_too_early():
    packed = pack_frames(frames_of(BATCH))
    async with connection() as (near, far):
        far.stream.socket.setblocking(True)
        far.stream.socket.sendall(struct.pack("=Q", len(packed)) + packed[:-1])
        await far.close()
        with pytest.raises(CommClosedError):
            await SchedulerStream(near).read()


@gen_cluster(nthreads=[("127.0.0.1", 2)] * 2, Worker=fastworker.Worker, client=True, timeout=60)
async def test_all_that_a_scheduler_sends(c, s, a, b):
    """Whatever comes in the life of a busy worker is the same to stock."""
    seen = Counter()
    differing = []

    def checked(frames):
        decoded = decode(frames)
        if not same([as_stock(message) for message in decoded], stock([*frames])):
            differing.append((decoded, stock([*frames])))
        seen.update(type(m).__name__ if type(m) is not dict else m["op"] for m in decoded)
        return decoded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastworker.link.reader, "decode", checked)
        with dask.annotate(retries=2, priority=3):
            xs = c.map(inc, range(50), pure=False)
        ys = c.map(operator.add, xs, xs[::-1], workers=[a.address])
        arrays = c.map(operator.add, [np.arange(100)] * 5, range(5))
        total = c.submit(sum, ys)
        named = c.submit(inc, 1, key=("a", 1, "b"))
        actor = c.submit(Counter, "abc", actor=True, workers=[a.address])
        assert await total == 2 * sum(range(1, 51))
        assert await named == 2
        assert await (await actor).total() == 3
        await c.gather(arrays)
        lonely = c.submit(inc, 5, workers=[b.address], allow_other_workers=True)
        await lonely
        await s.replicate(keys=[x.key for x in xs[:5]], n=2)
        await s.retire_workers([b.address], close_workers=False, remove=False)
        del xs, ys, total, arrays, named, actor, lonely
        gc.collect()  # on CPython 3.13 the client's future of an actor ends up in a cycle
        while a.state.tasks or b.state.tasks:
            await asyncio.sleep(0.01)
    assert not differing
    assert seen["ComputeTask"] >= 100
    assert seen["FreeKeys"] >= 2
    assert {"acquire-replicas", "worker-status-change"} <= set(seen)
