"""distributed's own ``WorkerState`` as an exact oracle, and the machine that is tested against it.

Two things in distributed's state machine depend on accidents rather than on the events it is given.
Both are put right here, for the oracle's run only, so that one answer is the right one:

- ``TaskState`` hashes by its address, so the order in which a set of tasks is walked is arbitrary.
  The oracle's tasks hash by a serial number: the how-manieth task of the story they are. The native
  ``TaskState`` does the same (``ts.serial``), and both machines start counting at the same number.
- ``HeapSet`` deletes lazily: what is discarded and added again may come back at its old place.
  :class:`ExactQueue` orders by the present key; ties go to what was added first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableSet
from typing import Any

import dask
import distributed.worker_state_machine as wsm
from sortedcontainers import SortedList

import fastworker.core
from fastworker.core.records import to_instructions
from support.core.entries import native

STOCK = wsm.WorkerState


class ExactQueue(MutableSet):
    """The interface of ``distributed.collections.HeapSet`` without its lazy deletion.

    Items come out by ``key(item)`` as it was when they were added; ties by age in the queue.
    """

    __slots__ = ("_added", "_entries", "_order", "key")

    def __init__(self, *, key: Callable[[Any], Any]):
        self.key = key
        self.clear()

    def __contains__(self, value: object) -> bool:
        return value in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return self.sorted()

    def sorted(self) -> Iterator[Any]:
        return iter([entry[2] for entry in self._order])

    def add(self, value: Any) -> None:
        if value not in self._entries:
            entry = (self.key(value), self._added, value)
            self._added += 1
            self._entries[value] = entry
            self._order.add(entry)

    def discard(self, value: Any) -> None:
        entry = self._entries.pop(value, None)
        if entry is not None:
            self._order.remove(entry)

    def peek(self) -> Any:
        if not self._entries:
            raise KeyError("peek into empty set")
        return self._order[0][2]

    def pop(self) -> Any:
        value = self.peek()
        self.discard(value)
        return value

    def clear(self) -> None:
        self._added = 0
        self._entries: dict[Any, tuple] = {}
        self._order = SortedList()


def numbered_task_state() -> type[wsm.TaskState]:
    """A subclass of distributed's ``TaskState`` that counts and hashes its own instances."""

    class NumberedTaskState(wsm.TaskState):
        __slots__ = ("serial",)
        _next_serial = 0

        def __post_init__(self) -> None:
            cls = NumberedTaskState
            self.serial = cls._next_serial
            cls._next_serial += 1
            super().__post_init__()

        def __hash__(self) -> int:
            return self.serial

    return NumberedTaskState


class CountingLog(deque):
    """A log that knows how many records were ever written to it."""

    written = 0

    def append(self, record: Any) -> None:
        self.written += 1
        super().append(record)


class Machine:
    """One state machine that plays a story, and what it was asked to remember on the way."""

    #: the state machine under test, or the oracle
    state: Any
    #: what :class:`stories.Recorder` plugins saw
    plugin_calls: list[tuple]

    def handle(self, *events: wsm.StateMachineEvent) -> list[wsm.Instruction]:
        return self.state.handle_stimulus(*events)


class StockMachine(Machine):
    """distributed's WorkerState, or a subclass of it, with numbered tasks.

    Parameters
    ----------
    slot: which of the two task classes to use; two machines of one story need different ones.
    queue: what to use in place of ``HeapSet``; None leaves the real one.
    """

    task_classes = (numbered_task_state(), numbered_task_state())

    def __init__(
        self,
        state_class: type,
        kwargs: dict[str, Any],
        *,
        slot: int,
        first_serial: int,
        queue: type | None = ExactQueue,
        log_length: int | None = None,
    ):
        self.task_class = self.task_classes[slot]
        self.task_class._next_serial = first_serial
        heapset = wsm.HeapSet
        if queue is not None:
            wsm.HeapSet = queue
        try:
            with dask.config.set({"distributed.admin.low-level-log-length": log_length}):
                self.state = state_class(**kwargs)
        finally:
            wsm.HeapSet = heapset
        self.log = self.state.log = CountingLog(maxlen=log_length)
        self.plugin_calls = []

    def handle(self, *events: wsm.StateMachineEvent) -> list[wsm.Instruction]:
        plain = wsm.TaskState
        wsm.TaskState = self.task_class
        try:
            return self.state.handle_stimulus(*events)
        finally:
            wsm.TaskState = plain


class NativeMachine(Machine):
    """The native WorkerState with its serial numbers started where the oracle's start.

    Parameters
    ----------
    entries: hand the frequent messages over as the live worker does, not as events
    """

    def __init__(
        self,
        state_class: type,
        kwargs: dict[str, Any],
        *,
        first_serial: int,
        log_length: int | None = None,
        entries: bool = False,
    ):
        if entries:
            self.handle = self.handle_by_entries  # type: ignore[method-assign]
        with dask.config.set({"distributed.admin.low-level-log-length": log_length}):
            self.state = state_class(**kwargs)
        self.plugin_calls = []
        start_native_serials(first_serial)

    def handle_by_entries(self, *events: wsm.StateMachineEvent) -> list[wsm.Instruction]:
        return to_instructions(self.state.handle_events(tuple(native(ev) for ev in events)))


def is_native(state_class: type) -> bool:
    return not issubclass(state_class, STOCK)


def start_native_serials(first: int) -> None:
    """Make the next task of the native core have the serial number `first`."""
    fastworker.core.reset_serial(first)
    offset = fastworker.core.TaskState("probe").serial - first
    fastworker.core.reset_serial(first - offset)
