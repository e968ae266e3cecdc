"""Messages from many threads: all arrive, once, in order, whichever thread sends them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import threading
import time

import pytest
from distributed.protocol.serialize import ToPickle
from distributed.utils_test import gen_test
from distributed.worker_state_machine import (
    Execute,
    LongRunningMsg,
    RescheduleMsg,
    TaskFinishedMsg,
)

from fastworker.core import WorkerState
from fastworker.core.records import describe_type, to_instructions
from fastworker.link.outbox import Outbox
from support.core import events
from support.link.ends import EVERY_TRANSPORT, NEVER, PATIENCE, Ends, in_thread, started

pytestmark = pytest.mark.usefixtures("either_comm")

#: Threads write to the sockets of the native comm alone.
by_threads = pytest.mark.parametrize("either_comm", ["native"], indirect=True)


def finished(keys, value=1):
    """The core's records of tasks that ended."""
    state = WorkerState(nthreads=1)
    describe_type(type(value))
    out = []
    for key in keys:
        state.handle_stimulus(events.compute(key))
        out += state.handle_events((events.success(key, value),))
    return out


def message_of(record):
    (instruction,) = to_instructions([record])
    return instruction.to_dict()


class Work:
    """What threads do: under the lock that gives messages their order they add, then they send."""

    def __init__(self, outbox, numbers):
        self.outbox = outbox
        self.numbers = iter(numbers)
        self.lock = threading.Lock()  # the core's, so to speak
        self.errors = []

    def run(self, seed):
        try:
            chance = random.Random(seed)
            while True:
                with self.lock:
                    number = next(self.numbers, None)
                    if number is None:
                        return
                    self.add(number, chance)
                choice = chance.random()
                if choice < 0.1:
                    self.outbox.send_soon(True)
                elif choice < 0.8:
                    self.outbox.send_soon(False)
        except BaseException as error:
            self.errors.append(error)
            raise

    def add(self, number, chance):
        kind = chance.random()
        if kind < 0.6:
            assert self.outbox.add_record(self.records[number])
        elif kind < 0.8:
            self.outbox.send({"op": "x", "key": number})
        elif kind < 0.95:
            assert self.outbox.add_record(RescheduleMsg(stimulus_id="s", key=number))
        else:
            self.outbox.send({"op": "x", "key": number, "value": ToPickle((number, "pickled"))})


async def all_through(address, total, n_threads, interval):
    records = finished(range(total))
    async with Ends(address) as ends:
        outbox = await started(ends, Outbox(interval))
        work = Work(outbox, range(total))
        work.records = records
        threads = [threading.Thread(target=work.run, args=(seed,)) for seed in range(n_threads)]
        for thread in threads:
            thread.start()
        received = []
        with contextlib.suppress(asyncio.TimeoutError):  # say what has arrived
            while len(received) < total:
                received += await asyncio.wait_for(ends.far.read(), 5)
        for thread in threads:
            await in_thread(thread.join)
        assert not work.errors
        assert [message["key"] for message in received] == list(range(total))
        for message in received:
            if "value" in message and address != "inproc://":
                assert message["value"] == (message["key"], "pickled")
        metrics = outbox.metrics
        assert metrics["messages"] == total + 1 and metrics["waiting_messages"] == 0
        assert sum(metrics["batch_sizes"].values()) == metrics["batches"]
        await outbox.close()
        return metrics


@pytest.mark.parametrize("address", EVERY_TRANSPORT)
@gen_test(timeout=90)
async def test_order_from_four_threads(either_comm, address):
    metrics = await all_through(address, 5_000, 4, "2ms")
    direct = either_comm == "native" and address == "tcp://127.0.0.1:0"
    assert bool(metrics["batches_from_threads"]) == direct


@pytest.mark.slow
@by_threads
@gen_test(timeout=110)
async def test_a_hundred_thousand_messages():
    metrics = await all_through("tcp://127.0.0.1:0", 100_000, 4, "1ms")
    assert metrics["batches_from_threads"]


@gen_test()
async def test_records_arrive_as_stock_would_send_them():
    # One by one and together, packed natively and kept as objects
    records = finished(["a", ("b", 1, (2.5, b"c")), 7])
    records += finished(["d"], value=type("Undescribed", (), {})())
    state = WorkerState(nthreads=1)
    state.handle_stimulus(events.compute("e"))
    state.tasks["e"].metadata = {"a": {1, 2}}
    records += state.handle_events((events.success("e", 1), events.free("e")))
    records.append(LongRunningMsg(stimulus_id="s", key="f", run_id=1, compute_duration=None))
    async with Ends() as ends, Ends() as stock_ends:
        outbox = await started(ends, Outbox(NEVER))
        for record in records:
            assert outbox.add_record(record) == 1
        assert [m["key"] for m in outbox.buffer] == [m.key for m in to_instructions(records)]
        outbox.flush()
        ours = await ends.receive(len(records))
        await stock_ends.near.write([message_of(record) for record in records])
        assert ours == list(await stock_ends.far.read())


@gen_test()
async def test_other_instructions_are_not_taken():
    outbox = Outbox("2ms")
    assert outbox.add_record(Execute(key="x", stimulus_id="s")) == 0
    assert outbox.add_record(None) == 0
    assert outbox.buffer == [] and outbox.message_count == 0


@by_threads
@gen_test()
async def test_a_thread_sends_while_the_event_loop_is_blocked():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        (record,) = finished(["x"])
        far = ends.far.stream.socket
        arrived = []

        def add_and_send():
            outbox.add_record(record)
            outbox.push()
            arrived.append(bool(select.select([far], [], [], 20)[0]))

        thread = threading.Thread(target=add_and_send)
        thread.start()
        thread.join(30)  # on the event loop's thread
        assert arrived == [True]
        assert outbox.metrics["batches_from_threads"] == 1
        assert (await ends.receive(1))[0]["key"] == "x"


@pytest.mark.parametrize("address", EVERY_TRANSPORT)
@gen_test()
async def test_a_message_without_a_push_leaves_by_the_timer(address):
    async with Ends(address) as ends:
        outbox = await started(ends, Outbox("50ms"))
        for i in range(3):
            # From a thread that then does something else, right after a batch has left
            await in_thread(outbox.send, i)
            await in_thread(outbox.send, -i)
            assert await ends.receive(2) == [i, -i]


@gen_test()
async def test_the_timer_comes_again_after_a_flush_in_between():
    async with Ends() as ends:
        outbox = await started(ends, Outbox("200ms"))
        for _ in range(2):
            outbox.add_record(RescheduleMsg(stimulus_id="s", key="a"))
            outbox.send_soon(True)  # leaves in the next round
            outbox.send("b")  # needs no timer, unlike the next
            assert (await ends.receive(2))[1] == "b"
            outbox.send("c")
            assert await ends.receive(1) == ["c"]


@gen_test()
async def test_due_by_size_and_by_age():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        now = time.monotonic()
        assert not outbox.due(now + 2 * NEVER)  # there is nothing
        outbox.send("x")
        assert not outbox.due(now + 1) and outbox.due(now + 2 * NEVER)
        outbox.send(b"x" * 70_000)
        assert outbox.due(now + 1)
        outbox.send_soon(False)
        assert len(outbox.buffer) == 2  # not before the event loop's next round
        assert await ends.receive(2) == ["x", b"x" * 70_000]
        assert not outbox.due(now + 2 * NEVER)


@by_threads
@gen_test()
async def test_the_first_after_a_silence_does_not_wait():
    async with Ends() as ends:
        outbox = await started(ends, Outbox("20ms"))
        await asyncio.sleep(0.1)
        await in_thread(outbox.send, "x")
        assert outbox.metrics["batches_from_threads"] == 1
        assert await ends.receive(1) == ["x"]


class SendsWhenItEnds:
    def __init__(self, outbox):
        self.outbox = outbox

    def __reduce__(self):
        self.outbox.send("while it was pickled")
        return str, ("pickled",)

    def __del__(self):
        self.outbox.send("at its end")


@gen_test()
async def test_user_code_that_sends_while_it_is_sent():
    async with Ends() as ends:
        outbox = await started(ends, Outbox("2ms"))
        outbox.send({"x": ToPickle(SendsWhenItEnds(outbox))}, "next")
        received = await ends.receive(4)
        assert received == [{"x": "pickled"}, "next", "while it was pickled", "at its end"]
        received = []

        def send():
            outbox.send({"x": ToPickle(SendsWhenItEnds(outbox))}, "next")
            outbox.push()

        await in_thread(send)
        received = await ends.receive(4)
        assert received == [{"x": "pickled"}, "next", "while it was pickled", "at its end"]


@by_threads
@gen_test()
async def test_a_full_socket_holds_no_thread_up():
    async with Ends(buffers=65536) as ends:
        outbox = await started(ends, Outbox(NEVER))
        blobs = [bytes([i]) * 100_000 for i in range(50)]

        def work():
            for i, blob in enumerate(blobs):
                outbox.send(i, blob)
                outbox.push()

        # It returns although the peer does not read: the event loop stands still, or it might read
        # ahead
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert outbox.metrics["socket_full"] >= 1
        assert outbox.metrics["waiting_messages"] > 0
        expected = [item for pair in enumerate(blobs) for item in pair]
        assert await ends.receive(len(expected)) == expected
        # Threads write to the socket again after that
        before = outbox.metrics["batches_from_threads"]
        await asyncio.sleep(0.01)
        await in_thread(lambda: (outbox.send("x"), outbox.push()))
        assert await ends.receive(1) == ["x"]
        assert outbox.metrics["batches_from_threads"] == before + 1


@gen_test()
async def test_large_buffers_are_not_copied_into_the_batch():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(n, dtype="u8") for n in (10, 300_000, 3_000_000)]
    async with Ends(buffers=65536) as ends:
        outbox = await started(ends, Outbox(NEVER))
        for _ in range(2):
            outbox.send("before", *({"x": ToPickle(array)} for array in arrays), "after")
            pushed = asyncio.ensure_future(in_thread(outbox.push))
            received = await ends.receive(5)
            await pushed
            assert received[0] == "before" and received[4] == "after"
            for message, array in zip(received[1:4], arrays, strict=True):
                assert (message["x"] == array).all()


@gen_test()
async def test_no_byte_goes_to_a_file_that_took_the_number_of_a_closed_one():
    async with Ends() as ends:
        outbox = await started(ends, Outbox(NEVER))
        number = ends.near.stream.socket.fileno()
        outbox.add_record(RescheduleMsg(stimulus_id="s", key="x"))
        ends.near.stream.close()
        pairs = []
        try:
            while not pairs or number not in [end.fileno() for pair in pairs for end in pair]:
                pairs.append(socket.socketpair())
                assert len(pairs) < 50
            await in_thread(outbox.push)
            await asyncio.sleep(0.05)
            ends_of_pairs = [end for pair in pairs for end in pair]
            assert select.select(ends_of_pairs, [], [], 0)[0] == []
        finally:
            for pair in pairs:
                for end in pair:
                    end.close()
        assert outbox.closed() and outbox.metrics["dropped"] == 0


def test_the_fields_are_those_of_stock():
    # What is packed natively is fixed when compiled; see put_finished
    names = list(TaskFinishedMsg.__annotations__)
    assert names == [
        "key", "run_id", "nbytes", "type", "typename", "metadata", "thread", "startstops",
    ]  # fmt: skip
