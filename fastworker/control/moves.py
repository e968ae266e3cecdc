"""Taking a task from one state to another by hand.

Some transitions follow from a thread or transfer that becomes free or ends, so only the state
machine can start them. Asked for by hand, such a move is made as the machine would make it, or
refused. A move that would leave the state inconsistent is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from distributed.metrics import time
from distributed.worker_state_machine import (
    RUN_ID_SENTINEL,
    InvalidTransition,
    RefreshWhoHasEvent,
    SecedeEvent,
)

from fastworker.control import checks
from fastworker.control.steering import (
    BUSY,
    Steering,
    locked,
    mark_by_hand,
    new_stimulus_id,
    report_of,
    wanted_here,
)
from fastworker.control.views import DEPENDENCY_STATES, TRANSITIONS

if TYPE_CHECKING:
    from fastworker.core import TaskState

NOTHING = object()


class Moves(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:

        def ensure_computing(self) -> None: ...
        def ensure_communicating(self) -> None: ...
        def put_key_in_memory(self, key: Key, value: Any) -> None: ...

    # Not @locked as a whole: it pickles
    def transition(
        self,
        key: Key,
        finish_state: str,
        *,
        value: Any = NOTHING,
        exception: BaseException | None = None,
        compute_duration: float | None = None,
    ) -> None:
        """Take a task to another state, with all transitions that follow.

        Does nothing if it is in that state already. The worker reports to the scheduler as if the
        state machine had made the move. If the task was to run here and no longer is, the worker
        asks the scheduler to have it run again.

        Parameters
        ----------
        finish_state
            The state; ``Worker.transitions`` has the direct moves. Other moves go through
            "released", if possible.
        value
            For "memory": the result. Required.
        exception
            For "error": what went wrong. Required.
        compute_duration
            For "long-running": seconds that the task has run; by default, since it started.

        Raises
        ------
        KeyError
            The worker does not know the key.
        ValueError
            There is no such state, or the task cannot go there now; the message says why.
        TypeError
            ``value`` or ``exception`` is missing.
        InvalidTransition
            There is no way from the task's state to that one.
        """
        self._check_usable()
        report = _report_for(finish_state, exception)
        self._move(key, finish_state, value, exception, report, compute_duration)

    @locked
    def _move(
        self,
        key: Key,
        finish_state: str,
        value: Any,
        exception: BaseException | None,
        report: tuple[Any, ...] | None,
        compute_duration: float | None,
        dependency: bool = False,
    ) -> None:
        """As `transition`; ``report`` of the exception is there for a move to "error"."""
        ts = self._known(key)
        finish = checks.a_state(finish_state)
        start = ts.state
        if dependency:
            _check_dependency(ts, finish)
        if start == finish:
            return
        if not _connected(start, finish):
            raise InvalidTransition(key, start, finish, self.state.story(key))
        if start in BUSY and finish not in _FROM_BUSY.get(start, ()):
            raise ValueError(f"task {key!r} is {start}; only the end of that can make it {finish}")
        stimulus_id = new_stimulus_id(f"transition-{finish}")
        if finish == "memory":
            if value is NOTHING:
                raise TypeError("a transition to memory needs the value")
            self.put_key_in_memory(key, value)
        elif finish == "error":
            if report is None:
                raise TypeError(f"a transition to error needs the exception; got {exception!r}")
            self._move_to_error(ts, report, stimulus_id)
        elif finish == "long-running":
            self._move_to_long_running(ts, compute_duration, stimulus_id)
        elif finish == "executing":
            self._move_to_executing(ts)
        elif finish == "flight":
            self._move_to_flight(ts)
        elif finish in ("released", "rescheduled"):
            self._check_unused(ts)
            self._release([ts], report=True, stimulus_id=stimulus_id)
        elif finish == "waiting":
            self._move_to_waiting(ts, stimulus_id)
        elif finish in ("ready", "constrained"):
            self._move_to_ready(ts, finish, stimulus_id)
        elif finish in ("fetch", "missing"):
            self._move_to_wanted(ts, finish, stimulus_id)
        else:
            self._move_to_forgotten(ts, stimulus_id)

    def transition_dep(
        self,
        dep: Key,
        finish_state: str,
        *,
        value: Any = NOTHING,
        exception: BaseException | None = None,
        compute_duration: float | None = None,
    ) -> None:
        """As ``transition``, for a key that is an input of tasks here; it cannot be made to run.

        Raises ValueError if the key is to be run here, or if the state is not
        one of an input; see ``Worker.dep_transitions``.
        """
        self._check_usable()
        report = _report_for(finish_state, exception)
        self._move(dep, finish_state, value, exception, report, compute_duration, dependency=True)

    def _move_to_error(self, ts: TaskState, report: tuple[Any, ...], stimulus_id: str) -> None:
        if ts.state == "missing":
            raise ValueError(f"no holder of {ts.key!r} is known; that is no error of its own")
        self._check_unused(ts)
        self._recommend(ts, ("error", *report, ts.run_id), stimulus_id)

    def _move_to_long_running(
        self, ts: TaskState, compute_duration: float | None, stimulus_id: str
    ) -> None:
        if ts.previous == "flight":
            raise ValueError(f"task {ts.key!r} is being fetched, it does not run")
        if compute_duration is None:
            compute_duration = 0.0 if ts.start_time is None else time() - ts.start_time
        self.handle_stimulus(
            SecedeEvent(key=ts.key, compute_duration=compute_duration, stimulus_id=stimulus_id)
        )

    def _move_to_executing(self, ts: TaskState) -> None:
        self.ensure_computing()
        if ts.state != "executing":
            raise ValueError(
                f"task {ts.key!r} cannot start: every thread is taken, the worker is paused, or "
                "it lacks resources"
            )

    def _move_to_flight(self, ts: TaskState) -> None:
        self.ensure_communicating()
        if ts.state != "flight":
            raise ValueError(
                f"{ts.key!r} cannot be fetched now: its holders are busy or asked already, the "
                "worker is paused, or too much is on its way"
            )

    def _move_to_waiting(self, ts: TaskState, stimulus_id: str) -> None:
        if ts.run_spec is None:
            if ts.run_id != RUN_ID_SENTINEL:
                raise ValueError(
                    f"{ts.key!r} has been run, and what to call is not kept beside the result"
                )
            raise ValueError(f"{ts.key!r} is data: there is nothing to run")
        for dep in ts.dependencies:
            if wanted_here(dep):
                raise ValueError(f"input {dep.key!r} of {ts.key!r} is {dep.state} here itself")
            if dep.priority is None and dep.state != "memory":
                raise ValueError(f"input {dep.key!r} of {ts.key!r} is gone")
        if ts.state == "memory":
            self._check_unused(ts)
        mark_by_hand(ts)
        self._recommend(ts, "waiting", stimulus_id)

    def _move_to_ready(self, ts: TaskState, finish: str, stimulus_id: str) -> None:
        if ts.waiting_for_data:
            missing = sorted((dep.key for dep in ts.waiting_for_data), key=str)
            raise ValueError(f"task {ts.key!r} still waits for {missing}")
        if finish == "constrained" and not ts.resource_restrictions:
            raise ValueError(f"task {ts.key!r} needs no resources")
        self._recommend(ts, finish, stimulus_id)

    def _move_to_wanted(self, ts: TaskState, finish: str, stimulus_id: str) -> None:
        """To fetch or missing."""
        if ts.state == "memory":
            self._check_unused(ts)
        if finish == "fetch":
            if ts.priority is None:
                raise ValueError(f"{ts.key!r} has no priority: nothing here ever needed it")
            if ts.state == "missing" and not ts.who_has:
                raise ValueError(f"no holder of {ts.key!r} is known")
        rerun = wanted_here(ts)
        if finish == "missing" and ts.state in ("fetch", "released") and ts.who_has:
            # Takes the key off the lists of the peers first.
            self.handle_stimulus(RefreshWhoHasEvent(who_has={ts.key: []}, stimulus_id=stimulus_id))
        if ts.state != finish:
            self._recommend(ts, finish, stimulus_id)
        if rerun:
            self._reschedule([ts.key], stimulus_id)

    def _move_to_forgotten(self, ts: TaskState, stimulus_id: str) -> None:
        if ts.dependents:
            needing = sorted((dependent.key for dependent in ts.dependents), key=str)
            raise ValueError(f"{ts.key!r} cannot be forgotten: it is an input of {needing}")
        rerun = wanted_here(ts)
        self._recommend(ts, "forgotten", stimulus_id)
        if rerun:
            self._reschedule([ts.key], stimulus_id)


def _report_for(finish_state: str, exception: BaseException | None) -> tuple[Any, ...] | None:
    """The exception's report, if a move to that state needs one and has an exception."""
    if finish_state == "error" and isinstance(exception, BaseException):
        return report_of(exception)
    return None


def _check_dependency(ts: TaskState, finish: str) -> None:
    """Raise ValueError if ``ts`` is to be run here, or an input is never in state ``finish``."""
    if finish not in DEPENDENCY_STATES:
        raise ValueError(
            f"an input is never {finish}; expected {', '.join(sorted(DEPENDENCY_STATES))}"
        )
    if ts.state not in DEPENDENCY_STATES:
        raise ValueError(f"task {ts.key!r} is to be run here, it is {ts.state}; use transition")


def _connected(start: str, finish: str) -> bool:
    """Whether the state machine has a transition, directly or through released."""
    return (start, finish) in TRANSITIONS or (
        "released" not in (start, finish)
        and (start, "released") in TRANSITIONS
        and ("released", finish) in TRANSITIONS
    )


#: Moves by hand of a task that a thread runs, or whose key is being fetched: start -> finishes.
_FROM_BUSY: Mapping[str, frozenset[str]] = {
    "cancelled": frozenset({"fetch", "long-running", "released", "waiting"}),
    "executing": frozenset({"fetch", "long-running", "released", "rescheduled"}),
    "flight": frozenset({"released", "waiting"}),
    "long-running": frozenset({"fetch", "released", "rescheduled"}),
    "resumed": frozenset({"fetch", "long-running", "released", "waiting"}),
}
