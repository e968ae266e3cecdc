"""Workers of hand-written stories in which task x is in a certain state."""

from __future__ import annotations

from typing import Any

from fastworker.core import WorkerState
from support.core.events import (
    FAR,
    HERE,
    NEAR,
    acquire,
    compute,
    execute,
    failure,
    free,
    gather,
    pause,
    secede,
    seceded,
    success,
)
from support.core.stories import Duel, Setup


def duel(**setup: Any) -> Duel:
    return Duel(WorkerState, Setup(**setup))


def with_running(running: str, **setup: Any) -> Duel:
    """A worker of one thread that runs x, which holds its only GPU; x may have seceded."""
    d = duel(resources={"GPU": 1}, **setup)
    assert d(compute("x", resource_restrictions={"GPU": 1})) == [execute("x")]
    if running == "long-running":
        assert d(secede("x")) == [seceded("x")]
    assert d.states() == {"x": running}
    return d


def in_flight(**setup: Any) -> Duel:
    """A worker that fetches x from FAR."""
    d = duel(**setup)
    assert d(acquire({"x": [FAR]})) == [gather(FAR, "x")]
    return d


def resumed_to_fetch(running: str, **setup: Any) -> Duel:
    """x runs here; the scheduler thinks that it is on FAR, and that y, here, should use that."""
    d = with_running(running, **setup)
    d(free("x"))
    assert d(compute("y", {"x": [FAR]})) == []
    assert d.states() == {"x": f"resumed({running}->fetch)", "y": "waiting"}
    assert d.state.tasks["x"].who_has == {FAR} and d.state.fetch_count == 0
    return d


def resumed_to_waiting(**setup: Any) -> Duel:
    """x is on its way from FAR, and should be computed here instead."""
    d = in_flight(**setup)
    d(free("x"))
    assert d(compute("x")) == []
    assert d.states() == {"x": "resumed(flight->waiting)"}
    return d


def in_state(state: str, *, validate: bool = True) -> Duel:
    """A worker on which x is in a state, for every state that a known task can be in."""
    if state in ("executing", "long-running"):
        return with_running(state, validate=validate)
    if state.startswith("cancelled("):
        running = state[10:-1]
        d = (
            in_flight(validate=validate)
            if running == "flight"
            else with_running(running, validate=validate)
        )
        d(free("x"))
        return d
    if state == "resumed(flight->waiting)":
        return resumed_to_waiting(validate=validate)
    if state.startswith("resumed"):
        return resumed_to_fetch(state[8:-8], validate=validate)
    if state == "flight":
        return in_flight(validate=validate)
    d = duel(resources={"GPU": 0}, validate=validate)
    if state == "released":
        d(acquire({"w": [FAR]}), free("w"), compute("w", {"x": [NEAR]}))
    elif state == "waiting":
        d(compute("x", {"w": [FAR]}))
    elif state == "ready":
        d(compute("w"), compute("x"))
    elif state == "constrained":
        d(compute("x", resource_restrictions={"GPU": 1}))
    elif state == "memory":
        d(compute("x"), success("x"))
    elif state == "error":
        d(compute("x"), failure("x"))
    elif state == "missing":
        d(acquire({"x": [HERE]}))
    elif state == "fetch":
        d(pause(), acquire({"x": [FAR]}))
    return d


STATES = [
    "released",
    "waiting",
    "ready",
    "constrained",
    "executing",
    "long-running",
    "memory",
    "error",
    "fetch",
    "flight",
    "missing",
    "cancelled(executing)",
    "cancelled(long-running)",
    "cancelled(flight)",
    "resumed(executing->fetch)",
    "resumed(long-running->fetch)",
    "resumed(flight->waiting)",
]
