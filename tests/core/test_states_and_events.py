"""Every event in every state, and every recommendation in every state, on both machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed.worker_state_machine as wsm
import pytest
from distributed.protocol.serialize import Serialize

from support.core.compare import Divergence
from support.core.events import (
    FAR,
    NEAR,
    acquire,
    busy,
    cancel_compute,
    compute,
    failure,
    find_missing,
    free,
    garbled,
    gathered,
    lost,
    pause,
    refresh,
    remove_replicas,
    remove_worker,
    reschedule,
    retry_busy,
    scatter,
    secede,
    steal,
    success,
    unpause,
)
from support.core.oracle import STOCK
from support.core.situations import STATES, in_state

VALIDATE = pytest.mark.parametrize("validate", [True, False], ids=["validated", "unchecked"])

ARGUMENTS: dict[str, tuple] = {
    "memory": ("value", 1),
    "error": (Serialize("exception"), None, "text", "", 1),
    "flight": (FAR,),
    "long-running": (1.5,),
}


def outcome_of(do: Callable[..., Any], *args: Any) -> Exception | None:
    """What both machines raised; a divergence is not an outcome."""
    try:
        do(*args)
    except Divergence:
        raise
    except Exception as error:
        return error
    return None


@VALIDATE
@pytest.mark.parametrize("start", STATES)
def test_every_recommendation(start: str, validate: bool) -> None:
    """From every state to every other: the same way there, or the same error."""
    plain = start.partition("(")[0]
    finishes = {finish for pair in STOCK._TRANSITIONS_TABLE for finish in pair}
    assert {state.partition("(")[0] for state in STATES} == finishes - {"rescheduled", "forgotten"}
    reached = []
    for finish in sorted(finishes):
        # A cancelled task that is not done does not leave; it would be tried again for ever.
        if (
            plain in ("executing", "long-running", "flight", "cancelled", "resumed")
            and finish != plain
            and (plain, finish) not in STOCK._TRANSITIONS_TABLE
            and ("cancelled", finish) not in STOCK._TRANSITIONS_TABLE
        ):
            continue
        for done in (False, True):
            d = in_state(start, validate=validate)
            assert d.state_of("x") == start
            for machine in (d.oracle, d.actual):
                machine.state.tasks["x"].done = done
            args = ARGUMENTS.get(finish)
            error = outcome_of(d.recommend, "x", (finish, *args) if args else finish)
            if error is None:
                reached.append(finish)
    assert plain in reached and len(set(reached)) >= 3


@VALIDATE
@pytest.mark.parametrize("start", STATES)
@pytest.mark.parametrize(
    "event",
    [
        free("x"),
        steal("x"),
        compute("x", run_id=9, priority=(7,)),
        compute("x", {"v": [FAR]}, run_id=9),
        compute("v", {"x": [NEAR]}),
        acquire({"x": [NEAR]}),
        remove_replicas("x"),
        refresh({"x": [NEAR]}),
        refresh({"x": []}),
        scatter(x=5),
        remove_worker(FAR),
        pause(),
        success("x"),
        failure("x"),
        reschedule("x"),
        secede("x"),
        gathered(FAR, x=1),
        gathered(FAR),
        busy(FAR),
        lost(FAR),
        garbled(FAR),
        unpause(),
        find_missing(),
        retry_busy(FAR),
        cancel_compute("x"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_every_event_in_every_state(
    start: str, event: wsm.StateMachineEvent, validate: bool
) -> None:
    """Whatever comes, whenever: the same instructions, the same state, or the same error."""
    d = in_state(start, validate=validate)
    assert d.state_of("x") == start
    if outcome_of(d, event) is None:
        d.finish()
