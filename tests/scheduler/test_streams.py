"""The sending policy on real comms. Its interval is an hour: what arrives was sent early."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError, connect, listen

from fastworker.scheduler.streams import WINDOW, EagerSend, LoopLoad, Pace, quicken, slow_down

HOUR = "1 h"
MANY = 10**6
TIMEOUT = 30


class Hand:
    """A clock that stands until the test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Load:
    """Stands for a LoopLoad that says what it is told to."""

    def __init__(self, busy: bool = False) -> None:
        self.is_busy = busy

    def busy(self) -> bool:
        return self.is_busy


@asynccontextmanager
async def a_stream(address: str, load: Load | None = None, burst: int = MANY, interval=HOUR):
    """An EagerSend, our end of its comm, and the other end."""
    accepted: asyncio.Future = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def serve(comm):
        accepted.set_result(comm)
        await done.wait()

    listener = await listen(address, serve)
    comm = await connect(listener.contact_address)
    peer = await accepted
    stream = BatchedSend(interval=interval)
    stream.start(comm)
    assert quicken(stream, load or Load(), burst)
    try:
        yield stream, comm, peer
    finally:
        done.set()
        stream.abort()
        comm.abort()
        peer.abort()
        listener.stop()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


async def read(peer, count: int) -> list:
    """The next ``count`` messages, whatever batches they come in."""
    messages: list = []
    while len(messages) < count:
        messages.extend(await peer.read())
    return messages


async def batch(peer) -> list:
    """One batch; TCP makes tuples of lists."""
    return list(await peer.read())


async def turns(n: int = 50) -> None:
    """Let everything happen that needs no more than so many turns of the loop."""
    for _ in range(n):
        await asyncio.sleep(0)


everywhere = pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://"])


@everywhere
def test_everything_leaves_at_once_and_in_order(address):
    async def check():
        async with a_stream(address) as (stream, _, peer):
            sent, got = [], []
            for size in [1, 1, 100, 1, 3, 50] * 5:
                messages = [{"op": "x", "n": len(sent) + i} for i in range(size)]
                sent += messages
                for message in messages:
                    stream.send(message)
                got += await read(peer, size)
            assert got == sent
            assert stream.message_count == len(sent)

    run(check())


@everywhere
def test_order_holds_while_the_peer_does_not_read(address):
    async def check():
        async with a_stream(address) as (stream, _, peer):
            for n in range(3000):
                stream.send({"n": n}, {"n": n + 0.5})
                if n % 7 == 0:
                    await asyncio.sleep(0)
            assert [m["n"] for m in await read(peer, 6000)] == [i / 2 for i in range(6000)]

    run(check())


@everywhere
def test_what_comes_in_one_turn_is_one_write(address):
    async def check():
        async with a_stream(address) as (stream, _, peer):
            stream.send("first")
            assert await batch(peer) == ["first"]
            await turns()
            before = stream.batch_count
            for n in range(100):
                stream.send(n)
            assert await batch(peer) == list(range(100))
            assert stream.batch_count == before + 1

    run(check())


def test_a_burst_is_followed_by_the_stock_interval():
    async def check():
        async with a_stream("tcp://127.0.0.1:0", burst=3) as (stream, _, peer):
            for n in range(4):  # the first one is on time in stock too
                stream.send(n)
                assert await batch(peer) == [n]
                await turns()
            stream.send(4)
            stream.send(5)
            await turns()
            assert stream.buffer == [4, 5]
            await asyncio.gather(stream.close(), _expect(peer, [4, 5]))

    run(check())


def test_a_busy_loop_keeps_the_stock_interval():
    async def check():
        load = Load(busy=True)
        async with a_stream("tcp://127.0.0.1:0", load) as (stream, _, peer):
            stream.send(0)
            assert await batch(peer) == [0]
            stream.send(1)
            await turns()
            assert stream.buffer == [1]
            load.is_busy = False
            stream.send(2)  # takes along what waited
            assert await batch(peer) == [1, 2]

    run(check())


def test_the_interval_still_ends_by_itself():
    async def check():
        stream_ = a_stream("tcp://127.0.0.1:0", Load(busy=True), interval="1 ms")
        async with stream_ as (stream, _, peer):
            for n in range(20):
                stream.send(n)
                assert await batch(peer) == [n]

    run(check())


async def _expect(peer, messages):
    assert await batch(peer) == messages


class Slow:
    """A comm whose writes take until ``gate`` is open; it complains about two at a time."""

    def __init__(self, comm) -> None:
        self.comm = comm
        self.gate = asyncio.Event()
        self.writing = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self.comm, name)

    async def write(self, *args, **kwargs):
        assert not self.writing.is_set(), "two writes at a time"
        self.writing.set()
        await self.gate.wait()
        self.writing.clear()
        return await self.comm.write(*args, **kwargs)


def test_messages_that_come_during_a_write_leave_together_after_it():
    async def check():
        async with a_stream("tcp://127.0.0.1:0") as (stream, comm, peer):
            stream.comm = slow = Slow(comm)
            stream.send(0)
            await slow.writing.wait()
            for n in range(1, 10):
                stream.send(n)
                await turns(10)
            assert stream.buffer == list(range(1, 10))
            slow.gate.set()
            assert await batch(peer) == [0]
            assert await batch(peer) == list(range(1, 10))
            assert stream.batch_count == 2

    run(check())


def test_close_during_a_write_sends_the_rest():
    async def check():
        async with a_stream("tcp://127.0.0.1:0") as (stream, comm, peer):
            stream.comm = slow = Slow(comm)
            stream.send(0)
            await slow.writing.wait()
            stream.send(1)
            closing = asyncio.ensure_future(stream.close())
            await turns()
            slow.gate.set()
            assert await read(peer, 2) == [0, 1]
            await closing
            assert comm.closed()

    run(check())


@everywhere
def test_a_closed_comm_raises_as_in_stock(address):
    async def check():
        async with a_stream(address) as (stream, comm, _):
            stream.send(0)
            await turns()
            comm.abort()
            before = stream.message_count
            with pytest.raises(CommClosedError):
                stream.send(1)
            assert stream.message_count == before

    run(check())


def test_a_write_that_fails_ends_the_stream():
    async def check():
        async with a_stream("tcp://127.0.0.1:0") as (stream, comm, peer):
            stream.send(0)
            await read(peer, 1)
            stream.send(i for i in ())  # cannot be pickled
            await stream.stopped.wait()
            assert comm.closed()
            with pytest.raises(CommClosedError):
                stream.send(1)

    run(check())


def test_slowing_down_restores_the_object():
    async def check():
        stock = vars(BatchedSend(interval=HOUR)).keys()
        async with a_stream("tcp://127.0.0.1:0", interval="1 ms") as (stream, _, peer):
            assert type(stream) is EagerSend
            stream.send(0)
            assert await batch(peer) == [0]
            stream.send(1)
            slow_down(stream)
            assert type(stream) is BatchedSend and vars(stream).keys() == stock
            stream.send(2)
            assert await read(peer, 2) == [1, 2]
            slow_down(stream)
            assert type(stream) is BatchedSend

    run(check())


def test_streams_of_other_classes_are_left_alone():
    class Other(BatchedSend):
        pass

    async def check():
        stream = Other(interval=HOUR)
        before = dict(vars(stream))
        assert not quicken(stream, Load(), 1)
        slow_down(stream)
        assert type(stream) is Other and vars(stream) == before

    run(check())


def test_pace():
    clock, load = Hand(), Load()
    pace = Pace(load, burst=2, interval=5.0, clock=clock)
    assert [pace.take() for _ in range(4)] == [True, True, False, False]
    clock.now += 4.9
    assert not pace.take()
    clock.now += 0.2
    load.is_busy = True
    assert not pace.take()
    load.is_busy = False
    assert [pace.take() for _ in range(3)] == [True, True, False]


def test_load():
    clock, cpu = Hand(), Hand()
    load = LoopLoad(0.5, clock, cpu)

    def after(window: float, used: float) -> bool:
        clock.now += window
        cpu.now += used
        return load.busy()

    assert not load.busy()
    assert after(2 * WINDOW, 1.2 * WINDOW)
    assert after(0.5 * WINDOW, 0)  # too soon to tell
    assert after(0.7 * WINDOW, WINDOW)
    assert not after(1000 * WINDOW, 100 * WINDOW)


def test_load_of_this_thread():
    """The default clocks: a thread that computes is busy, one that waits is not."""
    from time import perf_counter, sleep

    load = LoopLoad(0.01)
    load.busy()
    end = perf_counter() + 10 * WINDOW
    while perf_counter() < end:
        pass
    assert load.busy()
    sleep(100 * WINDOW)
    assert not load.busy()
