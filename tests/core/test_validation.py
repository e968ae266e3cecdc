"""``validate_state`` and ``validate_task`` find what is wrong, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed.worker_state_machine as wsm
import pytest
from distributed.protocol.serialize import Serialize

from fastworker.core import WorkerState
from support.core.events import (
    FAR,
    HERE,
    compute,
    finished,
    success,
)
from support.core.situations import STATES, in_state
from support.core.stories import quiet

Corruption = Callable[[Any, Any], object]

CORRUPTIONS: dict[str, tuple[str, Corruption]] = {
    # name: state of x, what to spoil, given the state and x
    "has_what without the key": ("fetch", lambda ws, x: ws.has_what[FAR].clear()),
    "has_what with one more": ("memory", lambda ws, x: ws.has_what[FAR].add("x")),
    "has_what of an unknown key": ("memory", lambda ws, x: ws.has_what[FAR].add("y")),
    "has_what of this worker": ("memory", lambda ws, x: ws.has_what[HERE].add("x")),
    "who_has without a worker": ("fetch", lambda ws, x: x.who_has.clear()),
    "who_has of this worker": ("memory", lambda ws, x: x.who_has.add(HERE)),
    "not in data_needed": ("fetch", lambda ws, x: ws.data_needed[FAR].discard(x)),
    "in data_needed": ("memory", lambda ws, x: (x.who_has.add(FAR), ws.data_needed[FAR].add(x))),
    "fetch_count": ("fetch", lambda ws, x: setattr(ws, "fetch_count", 5)),
    "in missing_dep_flight": ("memory", lambda ws, x: ws.missing_dep_flight.add(x)),
    "not in missing_dep_flight": ("missing", lambda ws, x: ws.missing_dep_flight.clear()),
    "in ready": ("memory", lambda ws, x: ws.ready.add(x)),
    "not in ready": ("ready", lambda ws, x: ws.ready.discard(x)),
    "in constrained": ("ready", lambda ws, x: ws.constrained.add(x)),
    "not in constrained": ("constrained", lambda ws, x: ws.constrained.discard(x)),
    "in executing": ("memory", lambda ws, x: ws.executing.add(x)),
    "not in executing": ("executing", lambda ws, x: ws.executing.clear()),
    "cancelled but not in executing": (
        "cancelled(executing)",
        lambda ws, x: ws.executing.clear(),
    ),
    "in long_running": ("executing", lambda ws, x: ws.long_running.add(x)),
    "not in long_running": ("long-running", lambda ws, x: ws.long_running.clear()),
    "in in_flight_tasks": ("memory", lambda ws, x: ws.in_flight_tasks.add(x)),
    "not in in_flight_tasks": ("flight", lambda ws, x: ws.in_flight_tasks.clear()),
    "not in in_flight_workers": ("flight", lambda ws, x: ws.in_flight_workers[FAR].clear()),
    "from nowhere": ("flight", lambda ws, x: setattr(x, "coming_from", None)),
    "in waiting": ("memory", lambda ws, x: ws.waiting.add(x)),
    "not in waiting": ("waiting", lambda ws, x: ws.waiting.clear()),
    "waits for nothing": ("waiting", lambda ws, x: x.waiting_for_data.clear()),
    "waits for too much": ("waiting", lambda ws, x: x.waiting_for_data.add(x)),
    "one-sided dependency": ("waiting", lambda ws, x: ws.tasks["w"].dependents.clear()),
    "nbytes of the worker": ("memory", lambda ws, x: setattr(ws, "nbytes", 1000)),
    "nbytes of the task": ("memory", lambda ws, x: setattr(x, "nbytes", None)),
    "no data": ("memory", lambda ws, x: ws.data.clear()),
    "data of an unknown task": ("memory", lambda ws, x: ws.data.update(y=1)),
    "actor of an unknown task": ("memory", lambda ws, x: ws.actors.update(y=1)),
    "data while executing": ("executing", lambda ws, x: ws.data.update(x=1)),
    "no run_spec": ("executing", lambda ws, x: setattr(x, "run_spec", None)),
    "wrong state": ("memory", lambda ws, x: setattr(x, "state", "waiting")),
    "cancelled without previous": (
        "cancelled(flight)",
        lambda ws, x: setattr(x, "previous", None),
    ),
    "cancelled with next": ("cancelled(flight)", lambda ws, x: setattr(x, "next", "waiting")),
    "resumed to the wrong state": (
        "resumed(executing->fetch)",
        lambda ws, x: setattr(x, "next", "waiting"),
    ),
    "resumed flight to fetch": (
        "resumed(flight->waiting)",
        lambda ws, x: setattr(x, "next", "fetch"),
    ),
    "done while it waits": ("waiting", lambda ws, x: setattr(x, "done", True)),
    "done while it is fetched": ("fetch", lambda ws, x: setattr(x, "done", True)),
    "released with an exception": (
        "released",
        lambda ws, x: setattr(x, "exception", Serialize(ValueError())),
    ),
    "released with previous": ("released", lambda ws, x: setattr(x, "previous", "flight")),
    "constrained without restrictions": (
        "constrained",
        lambda ws, x: setattr(x, "resource_restrictions", {}),
    ),
    "resources that were lost": ("memory", lambda ws, x: ws.total_resources.update(GPU=5)),
    "resources that came from nowhere": (
        "executing",
        lambda ws, x: ws.available_resources.update(GPU=1),
    ),
    "negative resources": ("executing", lambda ws, x: ws.available_resources.update(GPU=-1)),
    "unknown resource": ("memory", lambda ws, x: ws.available_resources.update(R=1)),
    "task under another key": ("memory", lambda ws, x: ws.tasks.update(y=x)),
    "forgotten dependency": ("waiting", lambda ws, x: ws.tasks.pop("w")),
    "too many transitions": (
        "memory",
        lambda ws, x: setattr(ws, "transition_counter_max", 1),
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_validation_finds(name: str) -> None:
    """What distributed's validation finds, ours does; and with the same kind of error."""
    state, spoil = CORRUPTIONS[name]
    d = in_state(state)
    errors: list[type] = []
    for machine in (d.oracle, d.actual):
        ws = machine.state
        ws.validate_state()
        spoil(ws, ws.tasks["x"])
        with quiet(), pytest.raises(Exception) as info:
            ws.validate_state()
        # A KeyError is what validation itself trips over.
        errors.append(AssertionError if info.type is KeyError else info.type)
    assert errors[0] is errors[1]
    assert issubclass(errors[1], AssertionError | wsm.InvalidTaskState)


def test_validation_sees_counts() -> None:
    """A state changed behind the counter's back."""
    d = in_state("memory")
    ts = d.state.tasks["x"]
    ts.state = "error"
    d.state.data.clear()
    d.state.nbytes = 0
    with quiet(), pytest.raises(AssertionError):
        d.state.validate_state()


@pytest.mark.parametrize("state", STATES)
def test_validation_is_silent(state: str) -> None:
    d = in_state(state)
    assert d.state.validate_state() is None
    for ts in d.state.tasks.values():
        assert d.state.validate_task(ts) is None


def test_no_validation_in_production() -> None:
    ws = WorkerState(address=HERE, validate=False)
    ws.handle_stimulus(compute("x"))
    ws.executing.clear()
    assert ws.handle_stimulus(success("x")) == [finished("x")]
