"""What tasks of the stress tests do. In a module of its own, for workers in other processes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import distributed
from distributed import Reschedule, get_worker, rejoin, secede, worker_client

from support.stress.values import Awkward, AwkwardError, Unpicklable, give_way, litter

_runs: Counter[Any] = Counter()
_numbers = itertools.count()


def double(x: int) -> int:
    return 2 * x


def add(*numbers: int) -> int:
    return sum(numbers)


def switching(x: int) -> int:
    litter(x)
    give_way()
    return 2 * x


def slow(x: int, seconds: float = 0.002) -> int:
    time.sleep(seconds)
    return 2 * x


def fail(x: int) -> None:
    held = Awkward(x)
    raise AwkwardError(held.number)


def again(name: str, x: int, times: int) -> int:
    """Ask to be run again a few times, and succeed then."""
    _runs[name] += 1
    if _runs[name] <= times:
        raise Reschedule
    del _runs[name]
    return 2 * x


def make(x: int, size: int = 0) -> Awkward:
    return Awkward(x, size)


def make_unpicklable(x: int, size: int) -> Awkward:
    return Unpicklable(x, size)


def numbers_of(*values: Awkward) -> list[int]:
    assert all(value == Awkward(value.number) for value in values)
    return [value.number for value in values]


def compare(value: Awkward, others: list[Awkward]) -> int:
    """How many of the others equal the value; they came as part of the task."""
    return sum(value == other for other in others)


def blob(x: int, size: int) -> bytes:
    return bytes([x % 256]) * size


def measure(*blobs: bytes) -> list[tuple[int, int]]:
    return [(each[0], len(each)) for each in blobs]


def leave_and_return(x: int, times: int) -> int:
    for _ in range(times):
        secede()
        give_way()
        rejoin()
        give_way()
    return 2 * x


def leave(x: int) -> int:
    secede()
    time.sleep(0.001)
    return 2 * x


def spawn(x: int) -> int:
    """Have other tasks do it."""
    with worker_client(timeout=60) as client:
        names = [f"spawned-{next(_numbers)}-{get_worker().name}" for _ in range(3)]
        futures = [client.submit(double, x + i, key=name) for i, name in enumerate(names)]
        return int(sum(client.gather(futures)))


async def on_loop(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


class Tally:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def count(self, by: int) -> int:
        self.n += by
        return self.n


class Listening(distributed.WorkerPlugin):
    """Wants to know of transitions: tasks have to take the way by the event loop."""

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        give_way()


class Quiet(distributed.WorkerPlugin):
    """Wants to know nothing."""
