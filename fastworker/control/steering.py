"""How the modules of this room reach the worker's state machine, past the scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dask.typing import Key
from distributed.core import error_message
from distributed.metrics import time
from distributed.worker import WORKER_ANY_RUNNING, fail_hard
from distributed.worker_state_machine import (
    FreeKeysEvent,
    Instruction,
    ReleaseWorkerDataMsg,
    RescheduleMsg,
)

from fastworker.control import checks
from fastworker.core import TaskState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import MutableMapping

    from distributed.core import Status
    from distributed.worker_state_machine import StateMachineEvent
    from tornado.ioloop import IOLoop

    from fastworker.core import WorkerState
    from fastworker.execution.engine import Engine
    from fastworker.execution.stock import StockEngine

F = TypeVar("F", bound=Callable[..., Any])

#: A task in one of these states has been given to this worker to run, and has not run yet.
PROCESSING = frozenset({"constrained", "executing", "long-running", "ready", "waiting"})

#: A task in one of these states has not begun, and no event will end it.
NOT_BEGUN = frozenset({"constrained", "ready", "waiting"})

#: In these states a thread runs the task, or a transfer fetches its result. An event will end that;
#: until then a call by hand may not say how it ended.
BUSY = frozenset({"cancelled", "executing", "flight", "long-running", "resumed"})


def new_stimulus_id(verb: str) -> str:
    """A name for one call, for the worker's logs and its messages to the scheduler."""
    return f"{verb}-{time()}"


def wanted_here(ts: TaskState) -> bool:
    """Whether the scheduler waits for this worker to run ``ts``."""
    return ts.state in PROCESSING or (ts.state == "resumed" and ts.next == "waiting")


def users(ts: TaskState) -> list[TaskState]:
    """The tasks to be run on this worker that take ``ts`` as an input."""
    return [dependent for dependent in ts.dependents if dependent.state in PROCESSING]


def mark_by_hand(ts: Any) -> None:
    """Note that a task is here because of a call by hand. The caller holds the core's lock."""
    if isinstance(ts, TaskState):  # distributed's own state machine has nowhere to note it
        ts.by_hand = True


def is_by_hand(ts: Any) -> bool:
    """Whether a task was added or made to wait by hand: the scheduler may not know it."""
    return isinstance(ts, TaskState) and ts.by_hand


def report_of(exception: BaseException) -> tuple[Any, ...]:
    """What the scheduler is told of an exception. Runs user code, which pickles it."""
    before = exception.__traceback__
    try:
        raise exception
    except BaseException as error:
        message = error_message(error)
    finally:
        exception.__traceback__ = before  # or it holds this frame and those of the callers
    return (
        message["exception"],
        message["traceback"],
        message["exception_text"],
        message["traceback_text"],
    )


def lock_of(state: Any) -> AbstractContextManager[Any]:
    """The core's lock. A user's own state machine has none, and runs on the event loop alone."""
    lock: AbstractContextManager[Any] = getattr(state, "lock", nullcontext())
    return lock


def locked(verb: F) -> F:
    """Decorate a verb to decide under the core's lock.

    No thread that finishes a task changes the state between the verb's checks and the events that
    it gives to the state machine. What the state machine, or the verb, has the worker do follows
    when the thread has released the lock: that may start threads, spill, and call methods that the
    user has replaced.

    Like `Steering._check_usable`, the call raises RuntimeError if the worker is not running, or in
    another thread than its own.
    """

    @wraps(verb)
    def with_lock(self: Steering, *args: Any, **kwargs: Any) -> Any:
        self._check_usable()
        try:
            with lock_of(self.state):
                return verb(self, *args, **kwargs)
        finally:
            self._follow()

    return cast(F, with_lock)


class Steering:
    """Access to a worker's state machine: a base of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        state: WorkerState
        status: Status
        address: str
        data: MutableMapping[Key, Any]
        loop: IOLoop
        thread_id: int
        _engine: Engine | StockEngine
        _async_instructions: set[asyncio.Task[StateMachineEvent]]

        def handle_stimulus(self, *stims: StateMachineEvent) -> None: ...
        def _follow(self) -> None: ...
        def _report_broken_state(self, error: Exception) -> None: ...

    def _check_usable(self) -> None:
        """Raise RuntimeError if the worker is not running, or in another thread than its own."""
        if self.status not in WORKER_ANY_RUNNING:
            raise RuntimeError(f"{self!r} is not running")
        if threading.get_ident() != self.thread_id:
            raise RuntimeError(
                f"{self!r} may only be changed from the thread of its event loop; "
                "from elsewhere use worker.loop.add_callback"
            )

    def _holds_lock(self) -> bool:
        """Whether the calling thread holds the core's lock."""
        return getattr(getattr(self.state, "lock", None), "held", False)

    def _known(self, key: Key) -> TaskState:
        """The task of that key. Raises KeyError if the worker has none."""
        ts = self.state.tasks.get(checks.a_key(key))
        if ts is None:
            raise KeyError(f"no task {key!r} on {self.address}")
        return ts

    def _check_unused(self, ts: TaskState, but_for: Iterable[TaskState] = ()) -> None:
        """Raise ValueError if a task that is yet to run here needs ``ts``."""
        in_use = [f"{user.key!r} ({user.state})" for user in users(ts) if user not in but_for]
        if in_use:
            raise ValueError(f"{ts.key!r} is needed here by {', '.join(in_use)}")

    @fail_hard  # type: ignore[untyped-decorator]
    def _drive(self, decide: Callable[[], Iterable[Instruction]]) -> None:
        """Carry out the instructions that ``decide`` gets from the state machine.

        As in ``handle_stimulus``, an error means that the state may be inconsistent, and closes the
        worker; that is logged at once, under the lock if the caller holds it.
        """
        try:
            self._carry_out(decide())
        except Exception as error:
            self._report_broken_state(error)
            raise

    def _carry_out(self, instructions: Iterable[Instruction]) -> None:
        """Have the worker do something, once this thread does not hold the core's lock."""
        self._engine.carry_out(list(instructions))

    def _recommend(self, ts: TaskState, finish: str | tuple[Any, ...], stimulus_id: str) -> None:
        """Have the state machine take a task to another state, with all transitions that follow."""
        self._drive(lambda: self.state._transitions({ts: finish}, stimulus_id=stimulus_id))

    def _release(self, tasks: list[TaskState], report: bool, stimulus_id: str) -> None:
        """Let go of tasks.

        With ``report``, tell the scheduler which results are gone, and ask it to reschedule the
        tasks that have not run yet.
        """
        rerun = [ts.key for ts in tasks if wanted_here(ts)]
        keys = [ts.key for ts in tasks]
        if report:
            self._free(keys, rerun, stimulus_id)
        else:
            self._drive_unreported(FreeKeysEvent(keys=keys, stimulus_id=stimulus_id))

    def _free(self, keys: list[Key], rerun: Iterable[Key], stimulus_id: str) -> None:
        """Let go of keys, with the scheduler told, and ask it to have tasks run again."""
        self.handle_stimulus(FreeKeysEvent(keys=keys, stimulus_id=stimulus_id))
        self._reschedule(rerun, stimulus_id)

    def _reschedule(self, keys: Iterable[Key], stimulus_id: str) -> None:
        """Ask the scheduler to have tasks run again, on this worker or another.

        To be called after the worker has let go of them: the scheduler may send them back at once.
        """
        self._carry_out(RescheduleMsg(key=key, stimulus_id=stimulus_id) for key in keys)

    def _drive_unreported(self, event: StateMachineEvent) -> None:
        """Have the state machine handle an event; the scheduler is not told which results go."""
        self._drive(
            lambda: [
                instruction
                for instruction in self.state.handle_stimulus(event)
                if not isinstance(instruction, ReleaseWorkerDataMsg)
            ]
        )
