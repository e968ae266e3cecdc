"""What the verbs have the worker do happens when the core's lock is free."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from functools import partial
from operator import add
from typing import Any

import pytest
from dask._task_spec import Task
from dask.utils_test import inc
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker_state_machine import ComputeTaskEvent, UpdateDataEvent
from distributed.worker_state_machine import WorkerState as StockState

import fastworker
from fastworker.core import WorkerState
from fastworker.execution.stock import StockEngine
from support.in_process import ONE_WORKER, cluster, gate, until, waiting_task
from support.spilling import KIB, SPILLING

#: {what: whether the thread that did it held the lock}, of the worker of the present test.
seen: dict[str, bool] = {}
states: list[WorkerState] = []


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    seen.clear()
    states.clear()


def note(what: str) -> None:
    """Call this from user code that the worker runs."""
    seen[what] = seen.get(what, False) or states[0].lock.held


def watch(worker: fastworker.Worker, *methods: str) -> None:
    """Note the calls of these methods; the engine calls ``batched_send`` for those that set it."""
    states.append(worker.state)
    for name in methods:
        setattr(worker, name, partial(noted, name, getattr(worker, name)))


def noted(what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    note(what)
    return call(*args, **kwargs)


class Tells:
    """Notes when it is pickled, unpickled and deallocated."""

    def __init__(self, name: str, nbytes: int = 1) -> None:
        self.name = name
        self.nbytes = nbytes

    def __sizeof__(self) -> int:
        return self.nbytes

    def __reduce__(self) -> Any:
        note(f"{self.name} pickled")
        return told, (self.name, self.nbytes)

    def __call__(self) -> str:
        return self.name

    def __del__(self) -> None:
        if states:
            note(f"{self.name} deallocated")


def told(name: str, nbytes: int) -> Tells:
    note(f"{name} unpickled")
    return Tells(name, nbytes)


class Oops(Exception):
    def __reduce__(self) -> Any:
        note("error pickled")
        return Oops, self.args


@cluster(nthreads=ONE_WORKER)
async def test_threads_start(c, s, a):
    pool = a.executors["default"]
    watch(a)
    pool._adjust_thread_count = partial(noted, "start", pool._adjust_thread_count)
    a.add_task("x", 0, {}, add, (1, 2))
    assert (await a.execute("x")).value == 3
    assert seen == {"start": False}


@cluster(nthreads=ONE_WORKER)
async def test_messages_and_runs(c, s, a):
    x = c.submit(inc, 1, key="x")
    await x
    watch(a, "batched_send", "_start_async_instruction")
    a.send_task_state_to_scheduler("x")
    assert seen.pop("batched_send") is False
    a.add_task("x", 0, {}, inc, (1,))  # its result is here
    assert seen.pop("batched_send") is False
    a.put_key_in_memory("y", 1)
    a.delete_data(["y"])
    assert seen.pop("batched_send") is False
    a.add_task("z", 0, {"x": []}, inc, ("x",))
    assert seen == {"_start_async_instruction": False}
    a.release_key("z")
    assert seen.pop("batched_send") is False


@cluster(nthreads=ONE_WORKER)
async def test_what_a_waiting_task_is_told(c, s, a):
    async with waiting_task(c, a) as (x, g):
        watch(a, "batched_send")
        a.transition("x", "error", exception=Oops(1))
        assert seen.pop("error pickled") is False
        assert seen.pop("batched_send") is False
        del a.batched_send
        g.opened.set()
        with pytest.raises(Oops):
            await x


@cluster(nthreads=ONE_WORKER, config=SPILLING, worker_kwargs={"memory_limit": 10 * 100 * KIB})
async def test_spilling(c, s, a):
    watch(a)
    a.put_key_in_memory("x", Tells("x", 70 * KIB), report=False)
    a.put_key_in_memory("y", Tells("y", 70 * KIB), report=False)
    assert seen.pop("x pickled") is False
    assert set(a.data.slow) == {"x"}
    a.delete_data(["x", "y"])
    gc.collect()
    assert seen == {"x deallocated": False, "y deallocated": False}


@cluster(nthreads=ONE_WORKER)
async def test_unpickling(c, s, a):
    watch(a)
    a.add_task("x", 0, {}, pickle.dumps(Tells("func")))
    assert (await a.execute("x")).value == "func"
    assert seen["func unpickled"] is False


class Forwards(WorkerPlugin):
    """Takes in data whenever a task has ended."""

    def setup(self, worker: Any) -> None:
        self.worker = worker

    def transition(self, key: Any, start: Any, finish: Any, **kwargs: Any) -> None:
        if key == "x" and finish == "memory":
            event = UpdateDataEvent(data={"made": Tells("made", 70 * KIB)}, stimulus_id="forwards")
            self.worker.handle_stimulus(event)


@cluster(nthreads=ONE_WORKER, config=SPILLING, worker_kwargs={"memory_limit": 10 * 100 * KIB})
async def test_an_event_within_an_event(c, s, a):
    """A plugin that has the worker handle one while it handles another."""
    await c.register_plugin(Forwards())
    watch(a, "_start_async_instruction")
    a.update_data({"large": Tells("large", 70 * KIB)})
    a.put_key_in_memory("x", 1, report=False)
    assert a.task_state["made"] == "memory"
    assert seen["large pickled"] is False


class Overrides(fastworker.Worker):
    def batched_send(self, msg: dict[str, Any]) -> None:
        if states:
            note("batched_send")
        super().batched_send(msg)


@cluster(nthreads=ONE_WORKER, Worker=Overrides)
async def test_without_threads_of_its_own(c, s, a):
    """An engine that leaves everything to the event loop."""
    assert isinstance(a._engine, StockEngine)
    watch(a, "_start_async_instruction")
    a.add_task("x", 0, {}, inc, (1,))
    await a.execute("x")
    a.release_key("x")
    assert seen == {"batched_send": False, "_start_async_instruction": False}


@cluster(nthreads=ONE_WORKER)
async def test_a_refusal_after_a_start(c, s, a):
    """What was decided before a verb refuses is carried out all the same."""
    with gate("g") as g:
        a.state.nthreads = 0
        a.add_task("first", 0, {}, g.pass_through)
        a.add_task("second", 1, {}, inc, (1,))
        a.state.nthreads = 1
        with pytest.raises(ValueError, match="'second' cannot start: every thread is taken"):
            a.transition("second", "executing")
        assert a.task_state["first"] == "executing"
        await until(g.entered.is_set)


@cluster(nthreads=[])
async def test_a_plugin_that_has_a_task_run(c, s):
    """The event is handled inside the one that the plugin was told of, and carried out once."""
    runs = []

    class Adds(WorkerPlugin):
        def setup(self, worker):
            pass

        def transition(self, key, start, finish, **kwargs):
            if (key, finish) == ("x", "memory"):
                event = ComputeTaskEvent(
                    key="y",
                    run_id=7,
                    who_has={},
                    nbytes={},
                    priority=(0,),
                    run_spec=Task("y", runs.append, 1),
                    resource_restrictions={},
                    actor=False,
                    annotations={},
                    span_id=None,
                    stimulus_id="by hand",
                )
                worker.handle_stimulus(event)

    async with fastworker.Worker(s.address, WorkerStateClass=StockState) as worker:
        assert isinstance(worker._engine, StockEngine)
        await worker.plugin_add(Adds(), name="adds")
        await c.submit(inc, 1, key="x")
        await until(lambda: runs)
        await c.submit(inc, 2, key="z")
        assert runs == [1]
