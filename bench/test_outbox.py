"""Telling the scheduler that tasks are done: from the core's record to bytes in a socket.

Stock's side is the least that stock does for it: its instruction as a dict, ``dumps`` of the batch,
the frames' header, one ``send``. The coroutine, timers and tornado's stream that it takes to get
there are left out. Ours is all that the outbox does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from distributed.comm import connect, listen
from distributed.comm.tcp import TCP, _add_frames_header
from distributed.protocol.core import dumps
from distributed.worker_state_machine import Instruction
from tornado.ioloop import IOLoop

from fastworker.comm import use
from fastworker.core import WorkerState
from fastworker.core.records import describe_type, to_instructions
from fastworker.link.outbox import Outbox
from machines import fresh_keys
from support.core import events
from versus import Side, Versus

HOUR = 3600.0


def finished(n: int) -> list[Any]:
    """Records of n tasks that have just ended."""
    state = WorkerState(nthreads=1)
    describe_type(int)
    records = []
    for key in fresh_keys(n):
        state.handle_stimulus(events.compute(key))
        done = events.success(key, 1, stop=11.5, nbytes=28, stimulus_id=f"task-finished-{key}")
        records += state.handle_events((done,))
    return records


@contextlib.contextmanager
def connection(make: str) -> Iterator[tuple[asyncio.AbstractEventLoop, TCP, socket.socket]]:
    """A loop that only runs when told to, a comm, and the socket at its other end.

    ``make`` is native or tornado.
    """
    use(make)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def start() -> tuple[Any, TCP, TCP]:
        accepted = loop.create_future()

        async def serve(comm: TCP) -> None:
            accepted.set_result(comm)

        listener = await listen("tcp://127.0.0.1:0", serve)
        near = await connect(listener.contact_address)
        return listener, near, await accepted

    listener, near, far = loop.run_until_complete(start())
    try:
        yield loop, near, far.stream.socket
    finally:
        near.abort()
        far.abort()
        listener.stop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        asyncio.set_event_loop(None)


def drain(far: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while far.recv(1 << 20):
            pass


@pytest.mark.parametrize("n", [1, 100, 1000])
def test_report(versus: Versus, n: int) -> None:
    records = finished(n)
    batches = max(1, 500 // n)
    instructions: list[Instruction] = to_instructions(records)
    with (
        connection("native") as (loop, comm, far),
        connection("tornado") as (_, stock_comm, stock_far),
    ):
        asyncio.set_event_loop(loop)

        async def start() -> Outbox:
            outbox = Outbox(HOUR * 1000, IOLoop.current())
            outbox.start(comm)
            outbox.send("first")
            await asyncio.sleep(0.05)
            return outbox

        outbox = loop.run_until_complete(start())
        sock = stock_comm.stream.socket

        def stock() -> None:
            for _ in range(batches):
                frames = dumps([instruction.to_dict() for instruction in instructions])
                frames, _, _ = _add_frames_header(frames)
                assert sock.send(b"".join(frames)) > n

        def ours() -> None:
            for _ in range(batches):
                for record in records:
                    outbox.add_record(record)
                outbox.push()

        def prepare_stock() -> tuple[()]:
            drain(stock_far)
            return ()

        def prepare_ours() -> tuple[()]:
            drain(far)
            return ()

        versus(
            f"outbox: report {n} finished",
            stock=Side(prepare_stock, stock),
            ours=Side(prepare_ours, ours),
            per=n * batches,
        )
        metrics = outbox.metrics
        assert not metrics["waiting_messages"] and not metrics["socket_full"]
