"""Invariants of the state, checked after every stimulus where ``validate=True``.

For tests and for hunting bugs: every check asks whether a task and the collections agree with each
other. Which invariants hold is defined by ``distributed.worker_state_machine.WorkerState``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from distributed.worker_state_machine import InvalidTaskState

if TYPE_CHECKING:
    from fastworker.core import TaskState, WorkerState

logger = logging.getLogger("distributed.worker.state_machine")

AWAITED = frozenset(
    [
        "constrained",
        "executing",
        "fetch",
        "flight",
        "long-running",
        "missing",
        "ready",
        "resumed",
        "waiting",
    ]
)
RUNNING = ("executing", "long-running")


def require(ok: object, *what: object) -> None:
    """An assertion that ``python -O`` keeps."""
    if not ok:
        raise AssertionError(*what)


def require_of(ws: WorkerState, key: object, ok: object) -> None:
    """The same, with the story of a task or key, which takes long to put together."""
    if not ok:
        raise AssertionError(ws.story(key))


def holds(ws: WorkerState, ts: TaskState) -> bool:
    return ts.key in ws.data or ts.key in ws.actors


def no_dependent_is_ready(ws: WorkerState, ts: TaskState) -> None:
    for dependent in ts.dependents:
        require(dependent not in ws.ready and dependent not in ws.constrained, dependent)


def check_memory(ws: WorkerState, ts: TaskState) -> None:
    require(holds(ws, ts))
    require(ts.nbytes is not None)
    require(not ts.waiting_for_data)


def check_running(ws: WorkerState, ts: TaskState) -> None:
    """Executing or long-running, maybe cancelled or resumed since."""
    doing = ts.previous or ts.state
    require(doing in RUNNING)
    require((ts in ws.executing) == (doing == "executing"))
    require((ts in ws.long_running) == (doing == "long-running"))
    require(ts.run_spec is not None)
    require(ts.key not in ws.data)
    require(not ts.waiting_for_data)
    no_dependent_is_ready(ws, ts)


def check_ready(ws: WorkerState, ts: TaskState) -> None:
    constrained = ts.state == "constrained"
    require(bool(ts.resource_restrictions) == constrained)
    require((ts in ws.constrained) == constrained)
    require((ts in ws.ready) != constrained)
    require(ts.key not in ws.data)
    require(not ts.done)
    require(not ts.waiting_for_data)
    for dep in ts.dependencies:
        require(holds(ws, dep), dep)


def check_waiting(ws: WorkerState, ts: TaskState) -> None:
    require(ts.key not in ws.data)
    require(not ts.done)
    require(ts in ws.waiting)
    require(ts.waiting_for_data)
    require(ts.waiting_for_data == {dep for dep in ts.dependencies if not holds(ws, dep)})
    no_dependent_is_ready(ws, ts)


def check_flight(ws: WorkerState, ts: TaskState) -> None:
    """In flight, maybe cancelled or resumed since."""
    require(not holds(ws, ts))
    require(ts in ws.in_flight_tasks)
    no_dependent_is_ready(ws, ts)
    require(ts.key in ws.in_flight_workers.get(ts.coming_from or "", ()))


def check_fetch(ws: WorkerState, ts: TaskState) -> None:
    require(not holds(ws, ts))
    require(ws.address not in ts.who_has)
    require(not ts.done)
    require(ts.who_has)
    for worker in ts.who_has:
        require(ts.key in ws.has_what[worker], worker)
        require(ts in ws.data_needed[worker], worker)
    no_dependent_is_ready(ws, ts)


def check_missing(ws: WorkerState, ts: TaskState) -> None:
    require(not holds(ws, ts))
    require(not ts.who_has)
    require(not ts.done)
    require(not any(ts.key in keys for keys in ws.has_what.values()))
    require(ts in ws.missing_dep_flight)
    no_dependent_is_ready(ws, ts)


def check_cancelled(ws: WorkerState, ts: TaskState) -> None:
    require(ts.next is None)
    check_detour(ws, ts)


def check_resumed(ws: WorkerState, ts: TaskState) -> None:
    require(ts.next == ("fetch" if ts.previous in RUNNING else "waiting"))
    check_detour(ws, ts)
    no_dependent_is_ready(ws, ts)


def check_detour(ws: WorkerState, ts: TaskState) -> None:
    if ts.previous in RUNNING:
        check_running(ws, ts)
    else:
        require(ts.previous == "flight")
        check_flight(ws, ts)


def check_released(ws: WorkerState, ts: TaskState) -> None:
    require(not holds(ws, ts))
    require(ts.next is None and ts.previous is None)
    for queue in ws.data_needed.values():
        require(ts not in queue)
    require(ts not in ws.executing)
    require(ts not in ws.in_flight_tasks)
    require(ts not in ws.missing_dep_flight)
    require(not ts.waiting_for_data)
    require(not ts.done)
    require(ts.exception is None and ts.traceback is None)


CHECKS: Mapping[str, Callable[[WorkerState, TaskState], None]] = {
    "cancelled": check_cancelled,
    "constrained": check_ready,
    "executing": check_running,
    "fetch": check_fetch,
    "flight": check_flight,
    "long-running": check_running,
    "memory": check_memory,
    "missing": check_missing,
    "ready": check_ready,
    "released": check_released,
    "resumed": check_resumed,
    "waiting": check_waiting,
}


def validate_task(ws: WorkerState, ts: TaskState) -> None:
    """Raises ``InvalidTaskState`` where the task and the collections disagree."""
    try:
        if ts.key in ws.tasks:
            require(ws.tasks[ts.key] is ts)
        check = CHECKS.get(ts.state)
        if check is not None:
            check(ws, ts)
    except Exception as e:
        logger.exception(e)
        raise InvalidTaskState(key=ts.key, state=ts.state, story=ws.story(ts)) from e


def validate_state(ws: WorkerState) -> None:
    """Raises ``InvalidTaskState`` or AssertionError where anything disagrees."""
    check_links(ws)
    check_collections(ws)
    for key in chain(ws.data, ws.actors):
        require_of(ws, key, key in ws.tasks)
    expected = sum(ws.tasks[key].nbytes or 0 for key in chain(ws.data, ws.actors))
    require(ws.nbytes == expected, f"nbytes is {ws.nbytes}; the values add up to {expected}")
    for ts in ws.tasks.values():
        validate_task(ws, ts)
    counts = Counter((ts.prefix, ts.state) for ts in ws.tasks.values())
    require(ws.task_counter.current_count() == counts, ws.task_counter.current_count(), counts)
    if ws.transition_counter_max:
        require(ws.transition_counter < ws.transition_counter_max)
    check_resources(ws)


def check_links(ws: WorkerState) -> None:
    """Tasks name each other, and peers and tasks name each other."""
    for ts in ws.tasks.values():
        for worker in ts.who_has:
            require(worker != ws.address, ts)
            require(ts.key in ws.has_what[worker], ts, worker)
        for dep in ts.dependencies:
            require(ws.tasks[dep.key] is dep, ts, dep)
            require_of(ws, ts, ts in dep.dependents)
        for dep in ts.waiting_for_data:
            require(ws.tasks[dep.key] is dep, ts, dep)
            require_of(ws, dep, dep.state in AWAITED)
    for worker, keys in ws.has_what.items():
        require(worker != ws.address)
        for key in keys:
            require_of(ws, key, key in ws.tasks)
            require(worker in ws.tasks[key].who_has, key, worker)


def check_collections(ws: WorkerState) -> None:
    """Every collection holds tasks of its state, and no second object for the same key."""
    to_fetch = set()
    for worker, queue in ws.data_needed.items():
        for ts in queue:
            require(worker in ts.who_has, f"{ts}; {ts.who_has=}")
            to_fetch.add(ts)
    require(len(to_fetch) == ws.fetch_count, to_fetch, ws.fetch_count)
    for tasks, state in (
        (to_fetch, "fetch"),
        (ws.missing_dep_flight, "missing"),
        (ws.ready, "ready"),
        (ws.constrained, "constrained"),
        (ws.waiting, "waiting"),
        (ws.executing, "executing"),
        (ws.long_running, "long-running"),
        (ws.in_flight_tasks, "flight"),
    ):
        for ts in tasks:
            require_of(ws, ts, state in (ts.state, ts.previous))
            require(ws.tasks[ts.key] is ts, f"{ts} is not {ws.tasks.get(ts.key)}")


def check_resources(ws: WorkerState) -> None:
    """What is available and what running tasks hold add up to the total."""
    require(ws.total_resources.keys() == ws.available_resources.keys())
    rest = dict(ws.total_resources)
    for name, amount in ws.available_resources.items():
        require(amount > -1e-9, ws.available_resources)
        rest[name] -= amount
    for ts in ws.all_running_tasks:
        for name, amount in (ts.resource_restrictions or {}).items():
            require(amount >= 0, ts, ts.resource_restrictions)
            rest[name] -= amount
    require(all(abs(amount) < 1e-9 for amount in rest.values()), rest)
