"""How an outbox ends: closed, aborted, broken, or with messages that cannot be sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from datetime import timedelta

import pytest
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError
from distributed.protocol.serialize import Serialize, ToPickle
from distributed.utils_test import captured_logger, freeze_batched_send, gen_test
from distributed.worker_state_machine import RescheduleMsg

from fastworker.link.outbox import Outbox
from support.failing import Unpicklable
from support.link.ends import EVERY_TRANSPORT, NEVER, Ends, in_thread, started

pytestmark = pytest.mark.usefixtures("either_comm")


@pytest.mark.parametrize("address", EVERY_TRANSPORT)
@gen_test()
async def test_closing_sends_what_is_left(address):
    async with Ends(address) as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send("a", {"x": 1})
        outbox.add_record(RescheduleMsg(stimulus_id="s", key="k"))
        await outbox.close()
        assert outbox.closed() and outbox.please_stop
        reschedule = {"op": "reschedule", "key": "k", "stimulus_id": "s"}
        assert await ends.receive(3) == ["a", {"x": 1}, reschedule]
        with pytest.raises(CommClosedError):
            await ends.far.read()
        with pytest.raises(CommClosedError, match="already closed"):
            outbox.send("x")
        assert outbox.add_record(RescheduleMsg(stimulus_id="s", key="late")) == 1
        outbox.send_soon(True)
        await in_thread(outbox.push)
        assert outbox.metrics["dropped"] == 1 and outbox.buffer == []
        await outbox.close()  # again


@gen_test()
async def test_closing_waits_for_a_slow_reader():
    async with Ends(buffers=65536) as ends:
        outbox = await started(ends, Outbox(NEVER))
        blob = b"x" * 5_000_000
        outbox.send(blob)
        outbox.push()
        outbox.send("last")
        closings = [outbox.close(), outbox.close(timeout=60), outbox.close(timedelta(seconds=60))]
        await asyncio.sleep(0.05)
        assert not any(closing.done() for closing in closings)
        assert await ends.receive(2) == [blob, "last"]
        await asyncio.wait_for(asyncio.gather(*closings), 30)
        assert outbox.closed()


@gen_test()
async def test_closing_gives_up_in_time():
    async with Ends(buffers=65536) as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send(b"x" * 5_000_000)
        outbox.push()
        outbox.send("last")
        with captured_logger("fastworker.comm", logging.WARNING) as log:
            with pytest.raises(asyncio.TimeoutError):
                await outbox.close(timeout=0.2)
        assert "1 messages to the scheduler were not sent" in log.getvalue()
        assert outbox.closed() and outbox.metrics["dropped"] == 1
        with pytest.raises(CommClosedError):
            await ends.far.read()


@gen_test()
async def test_closing_while_threads_send():
    async with Ends() as ends:
        outbox = await started(ends, Outbox("1ms"))
        sent = [[] for _ in range(4)]

        def work(mine, name):
            while True:
                try:
                    outbox.send((name, len(mine)))
                except CommClosedError:
                    return
                mine.append((name, len(mine)))
                time.sleep(0.0001)

        threads = [
            threading.Thread(target=work, args=(mine, name)) for name, mine in enumerate(sent)
        ]
        for thread in threads:
            thread.start()
        received = list(await ends.receive(100))

        async def rest():
            with contextlib.suppress(CommClosedError):
                while True:
                    received.extend(await ends.far.read())

        reading = asyncio.ensure_future(rest())
        await asyncio.wait_for(outbox.close(), 30)
        for thread in threads:
            await in_thread(thread.join)
        await asyncio.wait_for(reading, 30)
        # Each thread's messages up to some point, in order; the rest was dropped, and is counted
        for name in range(4):
            mine = [number for who, number in received if who == name]
            assert mine == list(range(len(mine)))
        assert len(received) + outbox.metrics["dropped"] == sum(map(len, sent))


class SendsAnother:
    def __init__(self, outbox):
        self.outbox = outbox

    def __reduce__(self):
        self.outbox.send({"x": ToPickle(self)})
        return str, ("sent",)


@gen_test()
async def test_closing_ends_although_there_is_always_more():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send({"x": ToPickle(SendsAnother(outbox))})
        await asyncio.wait_for(outbox.close(), 10)
        assert await ends.receive(1) == [{"x": "sent"}]
        assert outbox.metrics["dropped"] == 1


@gen_test()
async def test_closing_before_it_has_started():
    outbox = Outbox("2ms")
    outbox.send("kept for later")
    assert outbox.closed() is None and outbox.comm is None
    outbox.abort()
    await outbox.close()
    async with Ends() as ends:
        outbox.start(ends.near)
        assert await ends.receive(1) == ["kept for later"]
        await outbox.close()


@pytest.mark.parametrize("address", EVERY_TRANSPORT)
@pytest.mark.parametrize("by_thread", [False, True])
@gen_test()
async def test_aborting_drops_what_is_left(address, by_thread):
    async with Ends(address) as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send("lost", ToPickle(1))
        if by_thread:
            await in_thread(outbox.abort)
            await asyncio.sleep(0.05)
        else:
            outbox.abort()
        assert outbox.metrics["dropped"] == 2 and outbox.closed()
        with pytest.raises(CommClosedError):
            await ends.far.read()
        outbox.flush()
        await in_thread(outbox.push)
        with pytest.raises(CommClosedError):
            outbox.send("x")
        outbox.abort()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"])
@gen_test()
async def test_the_other_end_goes_away(address):
    async with Ends(address) as ends:
        outbox = await started(ends, Outbox("1ms"))
        ends.far.abort()

        def work():
            with pytest.raises(CommClosedError):
                for _ in range(100_000):
                    outbox.send("x" * 1000)
                    outbox.push()

        with captured_logger("distributed.batched", logging.ERROR) as log:
            await in_thread(work)
        assert not log.getvalue()
        assert outbox.closed()
        await asyncio.wait_for(outbox.close(), 10)


@gen_test()
async def test_messages_that_cannot_be_packed_do_not_take_others_with_them():
    erred = {
        "op": "task-erred",
        "key": "k",
        "exception": Serialize(Unpicklable()),
        "traceback": Serialize(Unpicklable()),
        "exception_text": "Bad()",
        "traceback_text": "",
    }
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        for send in (outbox.flush, outbox.push):
            outbox.send("before", {"op": "log-event", "msg": Unpicklable()}, erred, "after")
            with captured_logger("fastworker.wire", logging.ERROR) as log:
                await in_thread(send) if send == outbox.push else send()
            before, instead, after = await ends.receive(3)
            assert (before, after) == ("before", "after")
            assert instead["key"] == "k" and instead["traceback"] is None
            assert "log-event" in log.getvalue() and "task-erred" in log.getvalue()
        assert outbox.metrics["degraded"] == 2 and outbox.metrics["unsendable"] == 2


@gen_test()
async def test_a_tasks_end_that_cannot_be_sent_at_all_breaks_the_connection():
    # Or else the scheduler would wait for it for ever
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send({"op": "task-finished", "key": "\ud800", "metadata": {}})
        with captured_logger("distributed.batched", logging.ERROR) as log:
            await in_thread(outbox.push)
            await asyncio.sleep(0.05)
        assert "cannot send" in log.getvalue() and "task-finished" in log.getvalue()
        assert outbox.closed()


@gen_test()
async def test_another_comm_in_between():
    async with Ends() as ends:
        outbox = await started(ends, Outbox("1ms"))
        with freeze_batched_send(outbox) as frozen:
            assert outbox.comm is frozen
            outbox.send({"n": 0})
            assert (await frozen.write_queue.get())[1] == [{"n": 0}]
            for n in range(1, 10):
                await in_thread(outbox.send, {"n": n})
            await asyncio.sleep(0.05)
            assert [message["n"] for message in outbox.buffer] == list(range(1, 10))
        assert outbox.comm is ends.near
        for n in range(10, 20):
            await in_thread(lambda n=n: (outbox.send({"n": n}), outbox.push()))
        assert [m["n"] for m in await ends.receive(20)] == list(range(20))


@gen_test()
async def test_objects_go_through_inproc_as_they_are():
    async with Ends("inproc://") as ends:
        outbox = await started(ends, Outbox(NEVER))
        message = {"op": "x", "object": object(), "list": [1]}
        outbox.send(message)
        outbox.flush()
        (received,) = await ends.receive(1)
        assert received is message or received["object"] is message["object"]
        assert received["list"] == [1]


def test_an_event_loop_that_is_gone():
    made = []

    async def start():
        async with Ends() as ends:
            outbox = Outbox("1ms")
            outbox.start(ends.near)
            made.append(outbox)

    asyncio.run(start())
    (outbox,) = made
    outbox.add_record(RescheduleMsg(stimulus_id="s", key="x"))
    outbox.send_soon(True)
    outbox.push()
    outbox.abort()
    outbox.add_record(RescheduleMsg(stimulus_id="s", key="y"))  # too late to be taken
    assert outbox.metrics["dropped"] == 2 and outbox.message_count == 1
    assert "closed" in repr(outbox)


@gen_test()
async def test_what_can_be_read():
    async with Ends() as ends:
        outbox = Outbox("3ms")
        assert outbox.interval == 0.003
        with pytest.raises(ValueError, match="at least 0"):
            outbox.interval = -1
        outbox.interval = NEVER
        await started(ends, outbox)
        outbox.send({"op": "x", "key": ("a", 1)}, {"op": "y", "set": {1}}, ToPickle(1))
        assert outbox.buffer[:2] == [{"op": "x", "key": ("a", 1)}, {"op": "y", "set": {1}}]
        assert "3 messages waiting" in repr(outbox)
        assert outbox.metrics["waiting_bytes"] > 0
        outbox.flush()
        await ends.receive(3)
        first, second = outbox.recent_message_log
        assert first == ["first"]
        assert second[0] == {"op": "x", "key": ("a", 1)} and len(second) == 3
        assert (outbox.message_count, outbox.batch_count) == (4, 2)
        assert outbox.byte_count > 100
        metrics = outbox.metrics
        assert metrics["batch_sizes"] == {1: 1, 2: 1}
        assert metrics["bytes"] == outbox.byte_count


@gen_test()
async def test_a_shorter_interval_counts_at_once():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        outbox.send("x")
        await asyncio.sleep(0.02)
        assert outbox.buffer == ["x"]
        outbox.interval = 0.001
        assert await ends.receive(1) == ["x"]


@gen_test()
async def test_the_log_of_batches_is_bounded():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        for i in range(30):
            outbox.send(i, b"x" * 100_000)
            outbox.flush()
            await ends.receive(2)
        log = outbox.recent_message_log
        assert 8 <= len(log) <= 11
        assert [batch[0] for batch in log] == list(range(30 - len(log), 30))


@pytest.mark.usefixtures("either_comm")
@gen_test()
async def test_counts_and_log_are_those_of_stock():
    """But for pickled objects in the log, which only stock keeps alive."""
    seen = {}
    for kind in (BatchedSend, Outbox):
        async with Ends() as ends:
            sender = kind("1ms")
            sender.start(ends.near)
            batches = [
                [{"op": "a", "key": ("x", 1)}],
                [{"op": "b", "i": i} for i in range(20)],
                [{"op": "c", "data": bytes(999_000)}],
                [{"op": "c", "data": bytes(1_000_000)}],
                [{"op": "d", "obj": ToPickle(bytearray(2_000_000))}],
                [{"op": "e", "data": bytes(30_000_000)}],  # more than the sockets hold
            ]
            for batch in batches:
                sender.send(*batch)
                await ends.receive(len(batch))
                while len(sender.recent_message_log) < batches.index(batch) + 1:
                    await asyncio.sleep(0.001)
            seen[kind] = (
                sender.message_count,
                sender.batch_count,
                sender.byte_count,
                list(sender.recent_message_log),
            )
    assert seen[Outbox] == seen[BatchedSend]
    assert seen[Outbox][-1][3:] == ["large-message"] * 3


@pytest.mark.usefixtures("either_comm")
@gen_test()
async def test_what_could_not_be_sent_is_not_in_the_log():
    """Nor is it in a BatchedSend's, unless the error came only after the write had returned."""
    async with Ends() as ends:
        sender = Outbox("1ms")
        sender.start(ends.near)
        sender.send("first")
        await ends.receive(1)
        before = sender.byte_count
        ends.near.stream.socket.shutdown(socket.SHUT_RDWR)
        sender.send({"op": "x", "obj": ToPickle(bytearray(100_000))})
        while not ends.near.closed():
            await asyncio.sleep(0.001)
        assert list(sender.recent_message_log) == [["first"]]
        assert (sender.message_count, sender.batch_count, sender.byte_count) == (2, 2, before)
