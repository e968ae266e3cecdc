"""A transfer that brings results which cannot be read: the core errs the tasks that wait for them.

distributed's machine has no such event, so there is nothing to hold this against.
"""

from __future__ import annotations

from typing import Any

import pytest
from distributed.core import error_message
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker_state_machine import (
    AddKeysMsg,
    Execute,
    Instruction,
    TaskErredMsg,
)

from fastworker.core import WorkerState
from fastworker.core.partial import GatherDepPartialEvent
from support.core.events import FAR, HERE, acquire, compute, free

ERROR = error_message(ModuleNotFoundError("not on this worker"))


def machine(**kwargs: Any) -> WorkerState:
    return WorkerState(address=HERE, nthreads=1, validate=True, **kwargs)


def arrived(*unreadable: str, **data: Any) -> GatherDepPartialEvent:
    return GatherDepPartialEvent(
        worker=FAR,
        total_nbytes=len(unreadable) + len(data),
        data=data,
        unreadable=dict.fromkeys(unreadable, ERROR),
        stimulus_id="arrived",
    )


def kinds(instructions: list[Instruction]) -> list[type]:
    return [type(instruction) for instruction in instructions]


def states(ws: WorkerState) -> dict[Any, str]:
    return {key: ts.state for key, ts in ws.tasks.items()}


@pytest.mark.parametrize("unreadable", [["a"], ["b"], ["a", "b"]])
def test_the_task_that_waits_errs_once(unreadable: list[str]) -> None:
    ws = machine()
    ws.handle_stimulus(compute("x", {"a": [FAR], "b": [FAR]}, run_id=7))
    readable = {key: 1 for key in "ab" if key not in unreadable}
    [message] = ws.handle_stimulus(arrived(*unreadable, **readable))
    assert message == TaskErredMsg(
        key="x",
        run_id=7,
        exception=ERROR["exception"],
        traceback=ERROR["traceback"],
        exception_text=ERROR["exception_text"],
        traceback_text=ERROR["traceback_text"],
        thread=None,
        startstops=[],
        stimulus_id="arrived",
    )
    assert states(ws) == {"x": "error", "a": "released", "b": "released"}
    assert not ws.data
    assert not ws.transfer_incoming_bytes
    assert ws.handle_stimulus(free("x")) == []
    assert not ws.tasks


def test_what_others_need_of_the_transfer_stays() -> None:
    ws = machine()
    ws.handle_stimulus(compute("x", {"a": [FAR], "b": [FAR]}), compute("y", {"b": [FAR]}))
    instructions = ws.handle_stimulus(arrived("a", b=1))
    assert sorted(kinds(instructions), key=str) == [AddKeysMsg, Execute, TaskErredMsg]
    assert states(ws) == {"x": "error", "a": "released", "b": "memory", "y": "executing"}


def test_it_can_be_tried_again() -> None:
    ws = machine()
    ws.handle_stimulus(compute("x", {"a": [FAR]}), arrived("a"))
    # The scheduler has the worker let go of a task that it retries
    ws.handle_stimulus(free("x"), compute("x", {"a": [FAR]}))
    assert states(ws) == {"x": "waiting", "a": "flight"}


def test_a_replica_that_no_task_waits_for_is_forgotten() -> None:
    ws = machine()
    ws.handle_stimulus(acquire({"a": [FAR]}))
    assert ws.handle_stimulus(arrived("a")) == []
    assert not ws.tasks


def test_nothing_errs_that_was_cancelled_meanwhile() -> None:
    ws = machine()
    ws.handle_stimulus(compute("x", {"a": [FAR]}), free("x"))
    assert states(ws) == {"a": "cancelled"}
    assert ws.handle_stimulus(arrived("a")) == []
    assert not ws.tasks


def test_what_is_to_be_computed_here_by_now_is_computed() -> None:
    ws = machine()
    ws.handle_stimulus(compute("x", {"a": [FAR]}), free("x"), compute("a"))
    assert states(ws) == {"a": "resumed"}
    assert kinds(ws.handle_stimulus(arrived("a"))) == [Execute]
    assert states(ws) == {"a": "executing"}


def test_logs_and_plugins() -> None:
    class Watch(WorkerPlugin):
        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            seen.append((key, start, finish))

    seen: list[tuple[Any, str, str]] = []
    ws = machine(plugins={"watch": Watch()})
    ws.handle_stimulus(compute("x", {"a": [FAR]}))
    seen.clear()
    ws.handle_stimulus(arrived("a"))
    assert seen == [
        ("x", "waiting", "released"),
        ("x", "released", "error"),
        ("a", "flight", "released"),
        ("a", "cancelled", "fetch"),
        ("a", "cancelled", "released"),
    ]
    assert [entry[:4] for entry in ws.story("arrived") if entry[0] == "x"][-1] == (
        "x", "waiting", "error", "error",
    )  # fmt: skip
    event = ws.stimulus_log[-1]
    assert type(event) is GatherDepPartialEvent
    assert event.unreadable == {"a": None}
    assert event.data == {}
    assert event.handled
