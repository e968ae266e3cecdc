"""``TaskState``: attributes, what they refuse, and that no task outlives its use."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import fields
from typing import Any

import distributed.worker_state_machine as wsm
import pytest
from dask.utils import key_split
from distributed.protocol.serialize import Serialize

from fastworker.core import TaskState, WorkerState
from support.core.events import (
    FAR,
    HERE,
    compute,
    failure,
    free,
    gathered,
    success,
)
from support.core.situations import STATES, in_state


def test_task_defaults() -> None:
    stock, ours = wsm.TaskState("x-1"), TaskState("x-1")
    names = [f.name for f in fields(wsm.TaskState) if f.name != "__weakref__"]
    assert [f.name for f in fields(TaskState) if f.name != "__weakref__"] == names
    for name in names:
        left, right = getattr(stock, name), getattr(ours, name)
        assert left == right and type(left) is type(right), name


def test_task_attributes_can_be_set() -> None:
    other = TaskState("y")
    values = {
        "run_id": 5,
        "run_spec": object(),
        "dependencies": {other},
        "dependents": {other},
        "waiting_for_data": {other},
        "waiters": {other},
        "state": "resumed",
        "previous": "flight",
        "next": "waiting",
        "priority": (1, 2.5, -(2**70)),
        "who_has": {FAR},
        "coming_from": FAR,
        "resource_restrictions": {"GPU": 1},
        "exception": Serialize(ValueError()),
        "traceback": Serialize(None),
        "exception_text": "text",
        "traceback_text": "more text",
        "type": int,
        "suspicious_count": 2,
        "startstops": [{"action": "compute", "start": 1.0, "stop": 2.0}],
        "start_time": 1.5,
        "stop_time": 2.5,
        "metadata": {"a": 1},
        "nbytes": 2**40,
        "annotations": {"b": 2},
        "span_id": "span",
        "done": True,
    }
    for name, value in values.items():
        ts = TaskState("x", **{name: value})
        assert getattr(ts, name) == value, name
        ts = TaskState("x")
        setattr(ts, name, value)
        assert getattr(ts, name) == value, name
    assert set(values) | {"key", "prefix"} == {
        f.name for f in fields(wsm.TaskState) if f.name != "__weakref__"
    }


@pytest.mark.parametrize(
    "name,value,error",
    [
        ("state", "asleep", ValueError),
        ("state", None, ValueError),
        ("state", 5, ValueError),
        ("previous", "asleep", ValueError),
        ("next", "asleep", ValueError),
        ("priority", "high", TypeError),
        ("priority", 5, TypeError),
        ("priority", [1, 2], TypeError),
        ("nbytes", "many", (TypeError, ValueError)),
        ("nbytes", -5, ValueError),
        ("dependencies", ["y"], TypeError),
        ("dependents", "y", TypeError),
        ("waiting_for_data", {}, TypeError),
        ("waiters", 1, TypeError),
        ("who_has", [FAR], TypeError),
        ("startstops", {}, TypeError),
        ("start_time", "now", TypeError),
        ("key", "y", AttributeError),
        ("prefix", "y", AttributeError),
        ("no_such_attribute", 1, AttributeError),
    ],
)
def test_task_refuses_nonsense(name: str, value: Any, error: Any) -> None:
    ts = TaskState("x", priority=(1,))
    before = getattr(ts, name, None)
    with pytest.raises(error) as info:
        setattr(ts, name, value)
    assert str(info.value)
    assert getattr(ts, name, None) == before


def test_task_needs_a_key() -> None:
    with pytest.raises(TypeError):
        TaskState()
    with pytest.raises(TypeError):
        TaskState("x", colour="red")


def test_task_repr() -> None:
    assert repr(TaskState("x")) == "<TaskState 'x' released>"
    assert repr(TaskState(("x", 1), state="cancelled", previous="executing")) == (
        "<TaskState ('x', 1) cancelled(executing)>"
    )
    ts = TaskState("x", state="resumed", previous="flight", next="waiting")
    assert repr(ts) == "<TaskState 'x' resumed(flight->waiting)>"


def test_task_identity() -> None:
    """Two tasks of one key are two tasks."""
    a, b = TaskState("x"), TaskState("x")
    assert a != b and a == a and len({a, b, a}) == 2
    assert hash(a) == hash(a) and weakref.ref(a)() is a


def test_task_size() -> None:
    assert TaskState("x", nbytes=0).get_nbytes() == 0
    assert TaskState("x", nbytes=5).get_nbytes() == 5
    assert TaskState("x").get_nbytes() == wsm.TaskState("x").get_nbytes() == 1024


def test_prefixes() -> None:
    """As dask.utils.key_split has it, for all that people use as keys."""
    rng = random.Random(0)
    parts = ["x", "inc", "0", "12", "-", "_", "(", ")", "'", ",", " ", "<", "ab12cd34", "é", ""]
    parts += [
        "abcdef0123456789abcdef0123456789",
        "sum-aggregate",
        ".",
        "0x1f",
        "-1",
        "ae05086432ca",
    ]
    keys: list[Any] = ["", "x", ("x",), ("x", 1), ("x-1", 1), (("a-1", 2), 3), 5, 5.5, None]
    keys += [b"x-1", ("_(x)",), "_x", "<module obj>-1", ("", 1), (b"x-1", 1), (1, 2)]
    keys += ["".join(rng.choices(parts, k=rng.randrange(1, 6))) for _ in range(3000)]
    keys += [(key, 1) for key in keys[-300:]]
    for key in keys:
        assert TaskState(key).prefix == key_split(key), key
        ws = WorkerState(address=HERE, validate=False)
        ws.handle_stimulus(wsm.UpdateDataEvent(data={key: 1}, stimulus_id="s"))
        assert ws.task_counter.current_count() == {(key_split(key), "memory"): 1}, key


# --- which tasks there are


def test_tasks_are_tracked() -> None:
    gc.collect()
    TaskState._instances.clear()
    assert len(TaskState._instances) == 0
    a, b = TaskState("a"), TaskState("b")
    assert set(TaskState._instances) == {a, b} and a in TaskState._instances
    assert "a" not in TaskState._instances and wsm.TaskState("a") not in TaskState._instances
    del a
    gc.collect()
    assert list(TaskState._instances) == [b]


def test_forgotten_tasks_are_freed() -> None:
    """No cycle, log or pool keeps a task, its value or its run_spec."""
    gc.collect()
    TaskState._instances.clear()

    class Value:
        pass

    ws = WorkerState(address=HERE)
    spec, value = Value(), Value()
    alive = [weakref.ref(spec), weakref.ref(value)]
    ws.handle_stimulus(compute("y", {"x": [FAR]}, run_spec=spec))
    ws.handle_stimulus(gathered(FAR, x=value))
    ws.handle_stimulus(success("y", value))
    ws.handle_stimulus(free("x", "y"))
    ws.handle_stimulus(compute("z"), failure("z"))
    ws.handle_stimulus(free("z"))
    assert not ws.tasks
    del spec, value
    gc.collect()
    assert list(TaskState._instances) == []
    assert [ref() for ref in alive] == [None, None]


def test_state_is_freed() -> None:
    """Tasks refer to each other, and queues to tasks: the garbage collector must see it all."""
    gc.collect()
    TaskState._instances.clear()
    for state in STATES:
        d = in_state(state)
        ref = weakref.ref(d.state.tasks["x"])
        del d
        gc.collect()
        assert ref() is None, state
    assert len(TaskState._instances) == 0
