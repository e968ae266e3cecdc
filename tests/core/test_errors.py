"""What goes wrong goes wrong as in distributed, and nothing can crash the interpreter."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import distributed.worker_state_machine as wsm
import pytest

import fastworker.core
from fastworker.core import WorkerState
from support.core.events import (
    FAR,
    HERE,
    acquire,
    compute,
    execute,
    finished,
    pause,
    scatter,
    secede,
    success,
)
from support.core.oracle import STOCK
from support.core.stories import quiet

BOTH = pytest.mark.parametrize("cls", [STOCK, WorkerState], ids=["stock", "fastworker"])


def test_unknown_event() -> None:
    class LunchEvent(wsm.StateMachineEvent):
        __slots__ = ()

    ws = WorkerState(address=HERE)
    with pytest.raises(TypeError, match="LunchEvent"):
        ws.handle_stimulus(LunchEvent(stimulus_id="s"))
    with pytest.raises(TypeError, match="str"):
        ws.handle_stimulus("lunch")
    # It is none the worse for it.
    assert ws.handle_stimulus(compute("x")) == [execute("x")]
    ws.validate_state()


def test_derived_event() -> None:
    """A subclass of an event is that event."""

    class UrgentComputeTaskEvent(wsm.ComputeTaskEvent):
        pass

    event = UrgentComputeTaskEvent.dummy("x", stimulus_id="s")
    event = UrgentComputeTaskEvent(**{f.name: getattr(event, f.name) for f in fields(event)})
    for cls in (STOCK, WorkerState):
        ws = cls(address=HERE)
        assert ws.handle_stimulus(event) == [execute("x")]
        assert [type(ev) for ev in ws.stimulus_log] == [UrgentComputeTaskEvent]


@pytest.mark.parametrize("key", [(), b"\xff", ["x"]], ids=repr)
@BOTH
def test_impossible_key(cls: type, key: Any) -> None:
    """dask cannot tell its prefix, or it cannot be a key at all. Nothing is left behind."""
    ws = cls(address=HERE)
    ws.handle_stimulus(compute("x"))
    for event in (
        compute(key),
        wsm.UpdateDataEvent(data=OneKey(key), stimulus_id="s"),  # type: ignore[arg-type]
        wsm.AcquireReplicasEvent(who_has=OneKey(key), nbytes=OneKey(key), stimulus_id="s"),
    ):
        with pytest.raises((IndexError, TypeError, UnicodeDecodeError)):
            ws.handle_stimulus(event)
    assert list(ws.tasks) == ["x"]
    ws.validate_state()
    assert ws.handle_stimulus(success("x")) == [finished("x")]
    assert ws.task_counter.current_count() == {("x", "memory"): 1}


class OneKey(dict):
    """A dict of one key that need not be hashable."""

    def __init__(self, key: Any):
        super().__init__({"this": 1})
        self.key = key

    def keys(self) -> Any:
        return {"this": 1}.keys()

    def items(self) -> Any:
        return [(self.key, [FAR])]


@BOTH
def test_invalid_transition(cls: type) -> None:
    ws = cls(address=HERE)
    ws.handle_stimulus(scatter(x=1))
    with pytest.raises(wsm.InvalidTransition) as info:
        ws.handle_stimulus(secede("x"))
    error = info.value
    assert type(error) is wsm.InvalidTransition
    assert (error.key, error.start, error.finish) == ("x", "memory", "long-running")
    assert [record[:-1] for record in error.story][-1] == (
        "x",
        "memory",
        "released",
        "released",
        {"x": "forgotten"},
        "secede",
    )
    topic, message = error.to_event()
    assert topic == "invalid-worker-transition"
    assert message["key"] == "x" and message["story"] == error.story
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is wsm.InvalidTransition
    assert (again.key, again.start, again.finish, again.story) == (
        error.key,
        error.start,
        error.finish,
        error.story,
    )
    assert "memory->long-running" in str(error)


@BOTH
def test_transition_counter_max_exceeded(cls: type) -> None:
    ws = cls(address=HERE, transition_counter_max=2)
    with pytest.raises(wsm.TransitionCounterMaxExceeded) as info:
        ws.handle_stimulus(compute("x"))
    error = info.value
    assert (error.key, error.start, error.finish) == ("x", "waiting", "ready")
    assert error.to_event()[0] == "transition-counter-max-exceeded"
    assert pickle.loads(pickle.dumps(error)).story == error.story


@BOTH
def test_recommendations_conflict(cls: type) -> None:
    ws = cls(address=HERE)
    ws.handle_stimulus(pause(), acquire({"x": [FAR]}))
    with pytest.raises(wsm.InvalidTransition) as info:
        ws.handle_stimulus(compute("x", {"w": [FAR]}))
    assert type(info.value.__cause__) is wsm.RecommendationsConflict
    assert "'w'" in str(info.value.__cause__)


@BOTH
def test_invalid_task_state(cls: type) -> None:
    ws = cls(address=HERE)
    ws.handle_stimulus(scatter(x=1))
    del ws.data["x"]
    with quiet(), pytest.raises(wsm.InvalidTaskState) as info:
        ws.validate_task(ws.tasks["x"])
    error = info.value
    assert (error.key, error.state, error.story) == ("x", "memory", ws.story("x"))
    topic, message = error.to_event()
    assert topic == "invalid-worker-task-state" and message["state"] == "memory"
    assert pickle.loads(pickle.dumps(error)).key == "x"
    assert isinstance(error.__cause__, AssertionError)


def run_apart(code: str) -> subprocess.CompletedProcess:
    """In a process of its own: the interpreter itself may be what breaks."""
    header = """
import distributed.worker_state_machine as wsm
import fastworker.core
from distributed.worker_state_machine import *
ws = fastworker.core.WorkerState(address="tcp://127.0.0.1:1", validate=False)
ws.handle_stimulus(ComputeTaskEvent.dummy("x", stimulus_id="s"))
x = ws.tasks["x"]
"""
    return subprocess.run(
        [sys.executable, "-c", header + code],
        cwd=Path(fastworker.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_endless_transition() -> None:
    """A cancelled task stays where it is until it is done; recommending another is an error."""
    result = run_apart(
        """
ws.handle_stimulus(FreeKeysEvent(keys=["x"], stimulus_id="s"))
for finish in ("ready", "constrained", "executing", "forgotten", "resumed"):
    assert x.state == "cancelled", x
    try:
        ws._transitions({x: finish}, stimulus_id="s")
    except RecursionError as error:
        print("RecursionError")
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["RecursionError"] * 5


def test_malformed_recommendations() -> None:
    """They come from Python code, so they must not be able to crash the interpreter."""
    result = run_apart(
        """
import itertools
finishes = sorted(fastworker.core.STATES)
bad = []
for finish in (*finishes, None, 5, "lunch", b"memory", (), ("lunch",), [], (5,), "", ("",)):
    bad += [finish]
    if isinstance(finish, str):
        bad += [(finish,), (finish, 1), (finish, 1, 2), (finish, None, None, None, None, None)]
        bad += [(finish, *range(9))]
raised = 0
for setup in (
    [],
    [FreeKeysEvent(keys=["x"], stimulus_id="s")],
    [ExecuteSuccessEvent.dummy("x", stimulus_id="s")],
    [SecedeEvent(key="x", compute_duration=1, stimulus_id="s")],
    [ExecuteFailureEvent.dummy("x", stimulus_id="s")],
):
    for finish in bad:
        ws = fastworker.core.WorkerState(address="tcp://127.0.0.1:1", validate=False)
        ws.handle_stimulus(ComputeTaskEvent.dummy("x", stimulus_id="s"))
        ws.handle_stimulus(*setup)
        try:
            ws._transitions({ws.tasks["x"]: finish}, stimulus_id="s")
        except Exception as error:
            raised += 1
for recs in (None, 5, {"x": "ready"}, {None: "ready"}, {object(): "ready"}, [x]):
    try:
        ws._transitions(recs, stimulus_id="s")
    except (TypeError, AttributeError):
        print("ok")
for args in ((None, "ready"), ("x", "ready"), (x, None), (x, "lunch")):
    try:
        ws._transition(*args, stimulus_id="s")
    except (TypeError, ValueError):
        print("ok")
for finish in ("lunch", None, 5, ("lunch",), ()):
    try:
        ws._transitions({x: finish}, stimulus_id="s")
    except (TypeError, ValueError) as error:
        print("ok")
assert raised > 50, raised
"""
    )
    assert result.returncode == 0, (result.returncode, result.stderr)
    assert result.stdout.split() == ["ok"] * 15


def test_malformed_events() -> None:
    """Whatever is in an event, the interpreter survives it."""
    result = run_apart(
        """
import copy, dataclasses, itertools, random
rng = random.Random(0)
junk = [None, 5, -1, 2**80, 1.5, float("nan"), "", "x", b"x", (), ("x",), [], ["x"], {}, {"x": 1},
        {"x": None}, {"x": ["a"]}, {"y": ["a"]}, {"x": 5}, {1, 2}, object(), [[]], {None: None}]
peer = "tcp://10.0.0.2:1"
events = [
    ComputeTaskEvent.dummy("y", who_has={"d": [peer]}, stimulus_id="s"),
    ExecuteSuccessEvent.dummy("x", stimulus_id="s"),
    ExecuteFailureEvent.dummy("x", stimulus_id="s"),
    RescheduleEvent(key="x", stimulus_id="s"),
    SecedeEvent(key="x", compute_duration=1.0, stimulus_id="s"),
    CancelComputeEvent(key="x", stimulus_id="s"),
    StealRequestEvent(key="x", stimulus_id="s"),
    FreeKeysEvent(keys=["x"], stimulus_id="s"),
    RemoveReplicasEvent(keys=["x"], stimulus_id="s"),
    AcquireReplicasEvent(who_has={"z": [peer]}, nbytes={"z": 1}, stimulus_id="s"),
    RefreshWhoHasEvent(who_has={"d": [peer]}, stimulus_id="s"),
    UpdateDataEvent(data={"u": 1}, stimulus_id="s"),
    GatherDepSuccessEvent(worker=peer, total_nbytes=1, data={"d": 1}, stimulus_id="s"),
    GatherDepBusyEvent(worker=peer, total_nbytes=1, stimulus_id="s"),
    GatherDepNetworkFailureEvent(worker=peer, total_nbytes=1, stimulus_id="s"),
    RemoveWorkerEvent(worker=peer, stimulus_id="s"),
    RetryBusyWorkerEvent(worker=peer, stimulus_id="s"),
]
n = 0
for validate in (False, True):
    for event in events:
        for field in [f.name for f in dataclasses.fields(event)]:
            for value in junk:
                ws = fastworker.core.WorkerState(address="tcp://127.0.0.1:1", validate=validate)
                ws.handle_stimulus(events[0], ComputeTaskEvent.dummy("x", stimulus_id="s"))
                bad = copy.copy(event)
                setattr(bad, field, value)
                try:
                    ws.handle_stimulus(bad)
                except Exception:
                    n += 1
                # and on with it
                for other in events:
                    try:
                        ws.handle_stimulus(other)
                    except Exception:
                        pass
                logs = lambda: (list(ws.log), list(ws.stimulus_log), list(ws.ready.sorted()))
                for look in (ws.validate_state, ws._to_dict, lambda: str(ws.tasks), logs):
                    try:
                        look()
                    except Exception:
                        pass
assert n > 100, n
print("survived")
"""
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    assert result.stdout.split() == ["survived"]
