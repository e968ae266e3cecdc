"""In-process clusters of a real scheduler and fastworker workers, over real sockets."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import distributed
from dask.utils_test import inc
from distributed import Client, Future
from distributed.utils_test import BlockedGatherDep, async_poll_for, gen_cluster, wait_for_state

import fastworker

#: A decorator for ``async def test(client, scheduler, a, b)``: ``a`` has one thread, ``b`` two.
#: When the test is over, the state machines of all servers validate themselves.
cluster = functools.partial(gen_cluster, Worker=fastworker.Worker, client=True, timeout=60)

ONE_WORKER = [("127.0.0.1", 1)]

until = functools.partial(async_poll_for, timeout=20, period=0.01)


class HeldTransfers(BlockedGatherDep, fastworker.Worker):
    """Sets ``in_gather_dep`` when it first fetches data, and waits for ``block_gather_dep``."""


class Gate:
    """Holds tasks up. For workers in this process: pickling leaves the name only."""

    _gates: dict[str, Gate] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered = threading.Event()
        self.opened = threading.Event()
        self._gates[name] = self

    def __reduce__(self) -> Any:
        return Gate.named, (self.name,)

    @staticmethod
    def named(name: str) -> Gate:
        return Gate._gates[name]

    def pass_through(self, value: Any = None) -> Any:
        self.entered.set()
        if not self.opened.wait(30):
            raise TimeoutError(self.name)
        return value


@contextmanager
def gate(name: str) -> Iterator[Gate]:
    """A closed gate, that is opened in any case in the end."""
    it = Gate(name)
    try:
        yield it
    finally:
        it.opened.set()
        Gate._gates.pop(name)


@asynccontextmanager
async def waiting_task(
    client: Client, worker: fastworker.Worker, state: str = "ready", **options: Any
) -> AsyncIterator[tuple[Future, Gate]]:
    """A task ``x`` of value 2 in that state, behind another one that the gate holds up.

    ``options`` of both tasks are those of ``Client.submit``.
    """
    options["workers"] = [worker.address]
    with gate("blocker") as blocking:
        blocker = client.submit(blocking.pass_through, key="blocker", **options)
        x = client.submit(inc, 1, key="x", **options)
        await wait_for_state("x", state, worker)
        yield x, blocking
        blocking.opened.set()
        await blocker


def heard(server: distributed.Scheduler | fastworker.Worker, op: str) -> list[dict[str, Any]]:
    """From now on, a copy of every ``op`` message between the scheduler and its workers that
    ``server`` gets."""
    messages: list[dict[str, Any]] = []
    handle = server.stream_handlers[op]

    @functools.wraps(handle)
    def listen(**message: Any) -> Any:
        messages.append(message)
        return handle(**message)

    server.stream_handlers[op] = listen
    return messages


def snapshot(worker: fastworker.Worker) -> Any:
    """Whatever a refused call might have changed in the state machine."""
    state = worker.state
    return (
        {key: (ts.state, ts.previous, ts.next, set(ts.who_has)) for key, ts in state.tasks.items()},
        [ts.key for ts in worker.ready],
        {ts.key for ts in state.executing},
        {address: list(keys) for address, keys in worker.pending_data_per_worker.items()},
        dict(worker.data),
        dict(state.available_resources),
        state.transition_counter,
        len(state.stimulus_log),
        worker.status,
    )
