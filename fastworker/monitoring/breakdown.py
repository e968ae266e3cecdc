"""The dump that a worker logs when it closes because its state is broken: for a bug report."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import distributed
from dask.typing import Key
from distributed.core import Status

from fastworker._version import __version__

if TYPE_CHECKING:
    from fastworker.core import TaskState, WorkerState

#: For lines that distributed does not have.
logger = logging.getLogger("fastworker.state")

#: Limits of a dump: tasks, entries of each log, characters of an entry.
MAX_TASKS = 20
MAX_ENTRIES = 30
MAX_CHARS = 500


def report_breakdown(worker: distributed.Worker, error: Exception, keys: Iterable[Key]) -> None:
    """Log what a bug report needs, before an error closes the worker.

    Tells the scheduler's event log about an error that says which task went wrong.
    """
    if worker.status not in (Status.closing, Status.closed):
        log_state(worker.state, error, keys)
    if hasattr(error, "to_event"):
        worker.log_event(*error.to_event())


def log_state(state: WorkerState, error: Exception, keys: Iterable[Key]) -> None:
    """Log why the worker closes, with a `dump`. distributed logs the error itself."""
    logger.critical(
        "The worker closes, since its state is broken (%s). For a report of the bug:\n%s",
        type(error).__name__,
        dump(state, keys),
    )


def dump(state: WorkerState, keys: Iterable[Key] = ()) -> str:
    """The state of the tasks concerned and their last transitions, as text.

    It has no code, inputs or results of tasks.

    Parameters
    ----------
    state
        The worker's state. It may be inconsistent: the dump names each part that cannot be read,
        and leaves it out.
    keys
        Tasks that the error is about, as far as is known. Tasks that run, and their inputs, are in
        the dump in any case.
    """
    return "\n".join(
        [
            f"fastworker {__version__}, distributed {distributed.__version__},"
            f" Python {platform.python_version()}",
            *_part("Tasks by state", lambda: [dict(Counter(t.state for t in _tasks(state)))]),
            *_part("Tasks concerned", lambda: map(_describe, _concerned(state, keys))),
            *_part("Last transitions", lambda: _last(state.log)),
            *_part("Last events", lambda: _last(state.stimulus_log)),
        ]
    )


def _tasks(state: WorkerState) -> list[TaskState]:
    return list(state.tasks.values())


def _concerned(state: WorkerState, keys: Iterable[Key]) -> list[TaskState]:
    found: dict[Key, TaskState] = {}
    for key in keys:
        if key in state.tasks:
            found[key] = state.tasks[key]
    for ts in [*state.executing, *state.long_running]:
        found[ts.key] = ts
    for ts in list(found.values()):
        for dep in ts.dependencies:
            found.setdefault(dep.key, dep)
    return list(found.values())[:MAX_TASKS]


def _describe(ts: TaskState) -> dict[str, Any]:
    return {
        "key": ts.key,
        "state": ts.state,
        "previous": ts.previous,
        "next": ts.next,
        "run_id": ts.run_id,
        "done": ts.done,
        "priority": ts.priority,
        "nbytes": ts.nbytes,
        "who_has": sorted(ts.who_has),
        "coming_from": ts.coming_from,
        "dependencies": sorted(str(dep.key) for dep in ts.dependencies),
        "dependents": sorted(str(dep.key) for dep in ts.dependents),
        "waiting_for_data": sorted(str(dep.key) for dep in ts.waiting_for_data),
        "waiters": sorted(str(dep.key) for dep in ts.waiters),
    }


def _last(entries: Any) -> list[Any]:
    return list(islice(reversed(entries), MAX_ENTRIES))[::-1]


def _part(title: str, look: Callable[[], Iterable[object]]) -> list[str]:
    """A title, and below it a line for each thing."""
    try:
        return [f"{title}:", *(f"  {thing!r}"[:MAX_CHARS] for thing in look())]
    except Exception as error:
        return [f"{title}: cannot be told, {type(error).__name__}"]
