"""The two state machines that are compared, and the keys and events they are fed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from distributed import worker_state_machine as stock_machine
from distributed.worker_state_machine import (
    ComputeTaskEvent,
    ExecuteSuccessEvent,
    FreeKeysEvent,
    GatherDepSuccessEvent,
)

from fastworker import core
from support.core import events

ADDRESS = "tcp://10.0.0.1:40001"
PEERS = [f"tcp://10.0.{1 + i // 50}.{1 + i % 50}:40001" for i in range(100)]

START = 1700000000.0
"""When the first task begins."""

_random = random.Random(20)


class Machine(NamedTuple):
    """One implementation's classes."""

    name: str
    WorkerState: Callable[..., Any]
    TaskState: Callable[..., Any]

    def state(self, **kwargs: Any) -> Any:
        """A worker's state without validation, as a worker in production has it."""
        kwargs.setdefault("nthreads", 1)
        return self.WorkerState(address=ADDRESS, validate=False, **kwargs)


STOCK = Machine("stock", stock_machine.WorkerState, stock_machine.TaskState)
OURS = Machine("ours", core.WorkerState, core.TaskState)


def fresh_keys(n: int, prefix: str = "inc") -> list[str]:
    """`n` keys such as ``client.map`` makes, never seen before in this process.

    Never seen: distributed caches the prefix of every key, and real keys miss that cache.
    """
    return [f"{prefix}-{_random.getrandbits(128):032x}" for _ in range(n)]


def run_spec(key: str) -> Any:
    """What the scheduler sends as the task itself; the core only keeps it."""
    return ComputeTaskEvent.dummy_runspec(key)


def compute(
    key: str,
    i: int,
    spec: Any,
    who_has: dict[str, tuple[str, ...]] | None = None,
    nbytes: int | dict[str, int] = 1,
) -> ComputeTaskEvent:
    """The event of the compute-task message for task number ``i``, as it looks after decoding."""
    return events.compute(
        key,
        who_has,
        priority=(0, 1, i),
        run_id=i + 1,
        nbytes=nbytes,
        run_spec=spec,
        span_id="5f0b7a4e-span",
        stimulus_id=f"compute-task-{START + i}",
    )


def done(key: str, i: int, value: Any = 1) -> ExecuteSuccessEvent:
    start = START + i
    times = {"start": start, "stop": start + 0.1, "stimulus_id": f"task-finished-{start}"}
    return events.success(key, value, run_id=i + 1, nbytes=28, type=int, **times)


def free(*keys: str) -> FreeKeysEvent:
    return events.free(*keys, stimulus_id=f"free-keys-{keys[0]}")


def arrived(worker: str, key: str, nbytes: int) -> GatherDepSuccessEvent:
    return events.gathered(worker, nbytes, stimulus_id=f"gather-dep-{key}", **{key: 1})


def feed(handle: Callable[[Any], Any], story: list[Any]) -> None:
    """Hand the events over one at a time, as messages arrive."""
    for event in story:
        handle(event)


def windows(n: int, size: int) -> Iterator[range]:
    for start in range(0, n, size):
        yield range(start, min(n, start + size))
