"""Taking tasks apart and running them, without a worker and on one."""

from __future__ import annotations

import pickle
import threading
from operator import add

import pytest
from dask._task_spec import Task
from dask.utils_test import inc

from fastworker.control.task_parts import apply_function, deserialize_task
from support.failing import Refuses, fail
from support.in_process import ONE_WORKER, cluster


def test_deserialize_task():
    parts = (add, (1, 2), {})
    assert deserialize_task(*parts) == parts
    assert deserialize_task(*map(pickle.dumps, parts)) == parts
    assert deserialize_task(add, [1, 2]) == parts
    assert deserialize_task(add) == (add, (), {})
    assert deserialize_task(task=(add, 1, 2)) == parts
    assert deserialize_task(task=Task("k", add, 1, 2)) == parts
    assert deserialize_task(task=pickle.dumps(Task("k", int, "ff", base=16))) == (
        int,
        ("ff",),
        {"base": 16},
    )


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"function": pickle.dumps(Refuses())}, ModuleNotFoundError, "no such thing"),
        ({"function": b"not a pickle"}, pickle.UnpicklingError, "invalid load key"),
        ({"function": 1}, TypeError, "a task needs a callable, got 1"),
        ({}, TypeError, "a task needs a callable, got None"),
        ({"task": 1}, TypeError, "not a task: 1"),
        ({"task": ()}, TypeError, r"not a task: \(\)"),
        ({"task": (1, 2)}, TypeError, "a task needs a callable, got 1"),
        ({"task": (inc, 2), "function": inc}, TypeError, "not both"),
        ({"function": inc, "args": "x"}, TypeError, "args of a task must be"),
        ({"function": inc, "kwargs": ["x"]}, TypeError, "kwargs of a task must map"),
    ],
    ids=str,
)
def test_deserialize_task_refuses(arguments, error, says):
    with pytest.raises(error, match=says):
        deserialize_task(**arguments)


def test_apply_function():
    outcome = apply_function(divmod, (7, 2))
    assert outcome["status"] == "OK"
    assert outcome["op"] == "task-finished"
    assert outcome["result"] == (3, 1)
    assert outcome["type"] is tuple
    assert outcome["nbytes"] > 0
    assert outcome["thread"] == threading.get_ident()
    assert outcome["start"] <= outcome["stop"]
    assert apply_function(int, ("ff",), {"base": 16})["result"] == 255
    assert apply_function(lambda: None)["type"] is None


def test_apply_function_that_fails():
    outcome = apply_function(fail, (1,))
    assert outcome["status"] == "error"
    assert outcome["op"] == "task-erred"
    assert isinstance(outcome["actual_exception"], ValueError)
    assert pickle.loads(outcome["exception"].data).args == ("it went wrong", 1)
    assert outcome["traceback"] is not None
    assert "it went wrong" in outcome["exception_text"]
    assert "in fail" in outcome["traceback_text"]
    assert outcome["thread"] == threading.get_ident()
    assert outcome["start"] <= outcome["stop"]


def test_apply_function_lets_the_process_end():
    with pytest.raises(SystemExit):
        apply_function(exit, (3,))


def test_apply_function_refuses():
    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutine is a coroutine function"):
        apply_function(coroutine)
    with pytest.raises(TypeError, match="a task needs a callable, got 'x'"):
        apply_function("x")


@cluster(nthreads=ONE_WORKER)
async def test_on_a_worker(c, s, a):
    assert a.deserialize_task(task=(inc, 1)) == (inc, (1,), {})
    a.scheduler_delay = 1e6
    outcome = a.apply_function(inc, (1,))
    assert outcome["result"] == 2
    assert outcome["start"] - apply_function(inc, (1,))["start"] > 9e5
    a.scheduler_delay = 0
