"""Dumps, stories and pickles of a WorkerState and its tasks."""

from __future__ import annotations

import copy
import pickle

import pytest
from distributed.utils import recursive_to_dict

from fastworker.core import TaskState, WorkerState
from support.core.compare import check_dumps
from support.core.events import (
    FAR,
    free,
)
from support.core.situations import STATES, in_state


@pytest.mark.parametrize("state", STATES)
def test_dump(state: str) -> None:
    d = in_state(state)
    check_dumps(d.oracle.state, d.state)
    dump = d.state._to_dict()
    assert set(dump["tasks"]) == set(d.state.tasks)
    assert dump["tasks"]["x"]["state"] == state.partition("(")[0]
    assert "log" not in d.state._to_dict(exclude=("log", "tasks"))
    assert "tasks" not in d.state._to_dict(exclude=("log", "tasks"))


def test_task_dump_has_no_tasks_in_it() -> None:
    d = in_state("waiting")
    dump = recursive_to_dict(d.state.tasks)["x"]
    assert dump["waiting_for_data"] == ["<TaskState 'w' flight>"]
    assert "metadata" not in dump and "serial" not in dump and "prefix" not in dump
    assert "dependencies" not in d.state.tasks["x"]._to_dict_no_nest(exclude=("dependencies",))


def test_stories() -> None:
    d = in_state("waiting")
    for state in (d.oracle.state, d.state):
        x = state.tasks["x"]
        assert state.story("x") == state.story(x)
        assert [record[0] for record in state.story("x")] == ["x", "x"]
        assert state.story("compute") == list(state.log)
        assert len(state.story("x", "w")) > len(state.story("w")) > 0
        assert state.story("unknown") == state.story() == []
        assert [ev.key for ev in state.stimulus_story("x")] == ["x"]
        assert state.stimulus_story(x) == state.stimulus_story("x")
        assert state.stimulus_story("w") == []


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("state", STATES)
def test_pickled_state_goes_on(state: str, how: str) -> None:
    """A copy has everything that the original has, and nothing in common with it."""
    d = in_state(state)
    before = d.state._to_dict()
    ws = pickle.loads(pickle.dumps(d.state)) if how == "pickle" else copy.deepcopy(d.state)
    assert type(ws) is WorkerState
    ws.validate_state()
    after = ws._to_dict()
    for dump in (before, after):
        del dump["task_cumulative_elapsed"]
        for name in ("executing", "long_running", "in_flight_tasks"):
            dump[name] = sorted(dump[name])
        for task in dump["tasks"].values():
            for name in ("dependencies", "dependents", "waiting_for_data", "waiters", "who_has"):
                task[name] = sorted(task.get(name, ()))
    assert after == before
    for key, ts in ws.tasks.items():
        assert ts is not d.state.tasks[key]
        assert ts.priority == d.state.tasks[key].priority
    for name in ("running", "generation", "fetch_count", "nbytes", "executed_count", "validate"):
        assert getattr(ws, name) == getattr(d.state, name)
    assert ws.rng.getstate() == d.state.rng.getstate()
    # and on
    event = free(*ws.tasks)
    ws.handle_stimulus(event)
    ws.validate_state()
    d(event)
    assert {k: repr(ts) for k, ts in ws.tasks.items()} == {
        k: repr(ts) for k, ts in d.state.tasks.items()
    }


def test_pickled_task() -> None:
    ts = TaskState(
        ("x", 1),
        run_id=3,
        state="error",
        priority=(1, 2.5),
        who_has={FAR},
        exception_text="no",
        nbytes=12,
        metadata={"a": 1},
        startstops=[{"action": "compute", "start": 1.0, "stop": 2.0}],
        type=int,
        done=True,
    )
    other = TaskState("y", dependencies={ts})
    ts.dependents.add(other)
    again = pickle.loads(pickle.dumps(ts))
    assert again is not ts and again != ts and again.key == ("x", 1)
    for name in [
        "run_id",
        "state",
        "priority",
        "who_has",
        "exception_text",
        "nbytes",
        "metadata",
        "startstops",
        "type",
        "done",
        "prefix",
    ]:
        assert getattr(again, name) == getattr(ts, name), name
    (dependent,) = again.dependents
    assert dependent.key == "y" and dependent.dependencies == {again}
