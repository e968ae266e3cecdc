"""Messages to the scheduler leave when the worker has time, and are collected when it has not."""

from __future__ import annotations

import asyncio
import operator

import pytest
from distributed.comm import CommClosedError, connect, listen
from distributed.utils_test import gen_cluster, gen_test

import fastworker
from fastworker.link.outbox import Outbox
from support.in_process import gate, until

NEVER = 3600  # seconds: an interval that does not end during a test


class Ends:
    """Both ends of a real connection."""

    async def __aenter__(self):
        accepted = asyncio.get_running_loop().create_future()

        async def serve(comm):
            accepted.set_result(comm)
            await asyncio.Event().wait()

        self.listener = await listen("tcp://127.0.0.1:0", serve)
        self.near = await connect(self.listener.contact_address)
        self.far = await accepted
        return self

    async def __aexit__(self, *exc):
        self.near.abort()
        self.far.abort()
        self.listener.stop()


async def started(comm):
    """An outbox that has sent its first message, which never waits, and waits with the next."""
    outbox = Outbox(interval=NEVER)
    outbox.start(comm)
    outbox.send("first")
    while outbox.buffer:
        await asyncio.sleep(0)
    return outbox


@gen_test()
async def test_nothing_leaves_within_the_interval_unless_flushed():
    async with Ends() as ends:
        outbox = await started(ends.near)
        assert await ends.far.read() == ("first",)
        outbox.send("a")
        outbox.send("b", "c")
        await asyncio.sleep(0.05)
        assert outbox.buffer == ["a", "b", "c"]
        outbox.flush()
        assert await ends.far.read() == ("a", "b", "c")
        outbox.flush()  # nothing to send
        outbox.send("d")
        outbox.flush()
        assert await ends.far.read() == ("d",)


@gen_test()
async def test_order_is_kept_while_a_write_is_under_way():
    async with Ends() as ends:
        outbox = await started(ends.near)
        big = bytes(20_000_000)  # more than the sockets hold
        outbox.send(big)
        outbox.flush()
        while outbox.buffer:
            await asyncio.sleep(0)
        for i in range(100):
            outbox.send(i)
            outbox.flush()
        assert await ends.far.read() == ("first",)
        assert await ends.far.read() == (big,)
        received = []
        while len(received) < 100:
            received += await ends.far.read()
        assert received == list(range(100))


@gen_test()
async def test_closing_sends_what_is_left_and_aborting_does_not():
    async with Ends() as ends:
        outbox = await started(ends.near)
        outbox.send("last")
        outbox.flush()
        outbox.send("words")
        await outbox.close()
        received = []
        while len(received) < 3:
            received += await ends.far.read()
        assert received == ["first", "last", "words"]
        outbox.flush()
    async with Ends() as ends:
        outbox = await started(ends.near)
        outbox.send("lost")
        outbox.abort()
        outbox.flush()
        with pytest.raises(CommClosedError):
            outbox.send("x")


@gen_cluster(client=True, nthreads=[("", 1)], Worker=fastworker.Worker, timeout=60)
async def test_a_worker_that_has_time_waits_for_no_timer(c, s, a):
    a.batched_stream.interval = NEVER
    result = 0
    for _ in range(20):  # each needs the one before: none may be held back
        result = await c.submit(operator.add, result, 1, pure=False)
    assert result == 20


@gen_cluster(
    client=True,
    nthreads=[("", 1)],
    Worker=fastworker.Worker,
    timeout=60,
    config={"distributed.scheduler.worker-saturation": "inf"},  # send all tasks at once
)
async def test_a_worker_that_is_full_collects(c, s, a):
    with gate("first") as first, gate("last") as last:
        before = c.submit(first.pass_through, priority=100)
        await until(first.entered.is_set)
        quick = [c.submit(operator.add, i, 1, priority=10, pure=False) for i in range(5)]
        after = c.submit(last.pass_through)
        await until(lambda: after.key in a.state.tasks)
        a.batched_stream.interval = NEVER
        first.opened.set()
        await until(last.entered.is_set)
        await asyncio.sleep(0.05)
        # At no moment was there a free thread
        held_back = [m["key"] for m in a.batched_stream.buffer if m["op"] == "task-finished"]
        assert sorted(held_back) == sorted([before.key, *(f.key for f in quick)])
        last.opened.set()
        assert await c.gather(quick) == [1, 2, 3, 4, 5]
        await after
