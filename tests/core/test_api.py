"""What plugins read on a WorkerState and its tasks: names, arguments, errors, dumps, pickles."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import dask
import distributed
import distributed.worker_state_machine as wsm
import pytest
from distributed.diagnostics.plugin import WorkerPlugin

from fastworker.core import TaskState, WorkerState
from support.core.events import (
    FAR,
    HERE,
    NEAR,
    acquire,
    compute,
    execute,
    free,
    gather,
    pause,
    scatter,
    success,
)
from support.core.oracle import STOCK
from support.core.stories import Duel, Setup

BOTH = pytest.mark.parametrize("cls", [STOCK, WorkerState], ids=["stock", "fastworker"])


def public(obj: Any) -> set[str]:
    return {name for name in dir(obj) if not name.startswith("_")}


# --- construction and attributes


def test_every_public_name_is_there() -> None:
    """Of the classes, and of fresh instances."""
    assert public(STOCK) - public(WorkerState) == set()
    assert public(wsm.TaskState) - public(TaskState) == set()
    stock, ours = STOCK(address=HERE), WorkerState(address=HERE)
    assert {name for name in public(stock) if hasattr(stock, name)} <= public(ours)
    for name in public(stock):
        assert hasattr(ours, name) == hasattr(stock, name), name
    for name in public(wsm.TaskState("x")):
        assert hasattr(TaskState("x"), name), name


def test_helpers_are_there() -> None:
    """Those that distributed's worker, dashboard and tests reach for."""
    for name in (
        "_ensure_communicating",
        "_ensure_computing",
        "_select_keys_for_gather",
        "_to_dict",
        "_transition",
        "_transitions",
        "_update_who_has",
        "story",
        "stimulus_story",
        "validate_state",
        "validate_task",
    ):
        assert callable(getattr(WorkerState, name)), name
    assert WorkerState._TRANSITIONS_TABLE.keys() == STOCK._TRANSITIONS_TABLE.keys()


@BOTH
def test_defaults(cls: type) -> None:
    ws = cls()
    assert ws.nthreads == 1 and ws.running is True and ws.validate is True
    assert (ws.data, ws.threads, ws.plugins, ws.tasks, ws.actors) == ({}, {}, {}, {}, {})
    assert ws.total_resources == ws.available_resources == {}
    assert ws.transfer_incoming_count_limit == 9999
    assert ws.transfer_incoming_bytes_limit == ws.transfer_message_bytes_limit == math.inf
    assert ws.transfer_incoming_bytes_throttle_threshold == 10_000_000
    assert ws.transition_counter_max is False or ws.transition_counter_max == 0
    for name in (
        "executed_count",
        "fetch_count",
        "generation",
        "nbytes",
        "transfer_incoming_bytes",
        "transfer_incoming_count",
        "transfer_incoming_count_total",
        "transition_counter",
    ):
        assert getattr(ws, name) == 0, name
    for name in (
        "busy_workers",
        "constrained",
        "data_needed",
        "executing",
        "has_what",
        "in_flight_tasks",
        "in_flight_workers",
        "log",
        "long_running",
        "missing_dep_flight",
        "ready",
        "stimulus_log",
        "waiting",
    ):
        assert len(getattr(ws, name)) == 0, name
    assert ws.rng.random() == random.Random(0).random()


@BOTH
def test_arguments(cls: type) -> None:
    data, threads, plugins = {"a": 1}, {"a": 5}, {"p": object()}
    resources = {"GPU": 2.0}
    ws = cls(
        nthreads=3,
        address=HERE,
        data=data,
        threads=threads,
        plugins=plugins,
        resources=resources,
        transfer_incoming_count_limit=4,
        validate=False,
        transition_counter_max=1000,
        transfer_incoming_bytes_limit=5e6,
        transfer_message_bytes_limit=6e6,
    )
    assert ws.data is data and ws.threads is threads and ws.plugins is plugins
    assert ws.total_resources == ws.available_resources == resources
    assert ws.total_resources is not resources
    assert ws.available_resources is not ws.total_resources
    assert (ws.nthreads, ws.address, ws.validate) == (3, HERE, False)
    assert ws.transfer_incoming_count_limit == 4 and ws.transition_counter_max == 1000
    assert (ws.transfer_incoming_bytes_limit, ws.transfer_message_bytes_limit) == (5e6, 6e6)
    with pytest.raises(TypeError):
        cls(3)
    with pytest.raises(TypeError):
        cls(no_such_argument=3)


@BOTH
def test_empty_containers_are_kept(cls: type) -> None:
    """They are shared with the worker, which fills them in later."""
    data: dict = {}
    threads: dict = {}
    plugins: dict = {}
    ws = cls(data=data, threads=threads, plugins=plugins, address=HERE)
    assert ws.data is data and ws.threads is threads and ws.plugins is plugins
    ws.handle_stimulus(scatter(x=1))
    assert data == {"x": 1}


@BOTH
def test_address_comes_later(cls: type) -> None:
    ws = cls()
    with pytest.raises(AttributeError):
        ws.address  # noqa: B018
    assert not hasattr(ws, "address")
    ws.address = HERE
    assert ws.address == HERE
    assert ws.handle_stimulus(acquire({"x": [FAR]})) == [gather(FAR, "x")]


@BOTH
def test_attributes_that_others_set(cls: type) -> None:
    ws = cls(address=HERE)
    for name, value in (
        ("nthreads", 5),
        ("running", False),
        ("validate", False),
        ("total_resources", {"R": 1}),
        ("available_resources", {"R": 1}),
        ("transfer_incoming_count_limit", 1),
        ("transfer_incoming_bytes_limit", 10),
        ("transfer_incoming_bytes_throttle_threshold", 1),
        ("transfer_message_bytes_limit", 10),
        ("transition_counter_max", 50),
        ("data", {}),
        ("threads", {}),
        ("plugins", {}),
        ("actors", {}),
        ("generation", -5),
        ("executed_count", 3),
        ("nbytes", 12),
        ("fetch_count", 1),
        ("transfer_incoming_bytes", 2),
        ("transfer_incoming_count_total", 7),
        ("transition_counter", 9),
        ("rng", random.Random(3)),
    ):
        setattr(ws, name, value)
        assert getattr(ws, name) == value


@BOTH
def test_log_length_is_configured(cls: type) -> None:
    with dask.config.set({"distributed.admin.low-level-log-length": 3}):
        ws = cls(address=HERE)
    for i in range(5):
        ws.handle_stimulus(free(f"x-{i}"))
    assert [record[1] for record in ws.log] == [["x-2"], ["x-3"], ["x-4"]]
    assert [ev.keys for ev in ws.stimulus_log] == [["x-2"], ["x-3"], ["x-4"]]


# --- helper methods give what stock's give


def by_key(recs: dict) -> list:
    return [(ts.key, finish) for ts, finish in recs.items()]


def test_ensure_computing() -> None:
    d = Duel(WorkerState, Setup(nthreads=2))
    d(pause(), compute("a"), compute("b"), compute("c"))
    answers = []
    for state in (d.oracle.state, d.state):
        assert state._ensure_computing() == ({}, [])
        state.running = True
        recs, instructions = state._ensure_computing()
        assert instructions == []
        answers.append(by_key(recs))
    assert answers[0] == answers[1] == [("c", "executing"), ("b", "executing")]
    assert {ts.key for ts in d.state.executing} == {"b", "c"} and len(d.state.ready) == 1
    answers = [
        state._transitions(dict.fromkeys(state.executing, "executing"), stimulus_id="s")
        for state in (d.oracle.state, d.state)
    ]
    assert sorted(inst.key for inst in answers[1]) == ["b", "c"]
    assert {type(inst) for inst in answers[1]} == {wsm.Execute}


def test_ensure_communicating() -> None:
    d = Duel(WorkerState)
    d(pause(), acquire({"a": [FAR], "b": [FAR]}, nbytes=3), acquire({"c": [NEAR]}))
    for state in (d.oracle.state, d.state):
        assert state._ensure_communicating(stimulus_id="s") == ({}, [])
        state.running = True
        recs, instructions = state._ensure_communicating(stimulus_id="s")
        assert sorted(by_key(recs)) == [
            ("a", ("flight", FAR)),
            ("b", ("flight", FAR)),
            ("c", ("flight", NEAR)),
        ]
        assert instructions == [
            gather(NEAR, "c", total_nbytes=1, stimulus_id="s"),
            gather(FAR, "a", "b", total_nbytes=6, stimulus_id="s"),
        ]
        assert state._transitions(recs, stimulus_id="s") == []
        assert {ts.state for ts in state.tasks.values()} == {"flight"}


def test_select_keys_for_gather() -> None:
    d = Duel(WorkerState, Setup(transfer_message_bytes_limit=2))
    d(pause(), acquire({"a": [FAR, NEAR]}), acquire({"b": [FAR]}), acquire({"c": [FAR]}))
    for state in (d.oracle.state, d.state):
        tasks, nbytes = state._select_keys_for_gather(state.data_needed[FAR])
        assert ([ts.key for ts in tasks], nbytes) == (["a", "b"], 2)
        assert [ts.key for ts in state.data_needed[FAR].sorted()] == ["c"]
        assert not state.data_needed[NEAR]


def test_update_who_has() -> None:
    d = Duel(WorkerState)
    d(pause(), acquire({"x": [FAR]}))
    for state in (d.oracle.state, d.state):
        state._update_who_has({"x": [NEAR, HERE], "unknown": [FAR]})
        assert state.tasks["x"].who_has == {NEAR}
        assert state.has_what == {FAR: set(), NEAR: {"x"}}
        assert [len(state.data_needed[worker]) for worker in (FAR, NEAR)] == [0, 1]


def test_transition_leaves_the_rest_to_the_caller() -> None:
    d = Duel(WorkerState)
    d(acquire({"w": [FAR]}), free("w"), compute("w", {"x": [NEAR]}))
    assert d.state_of("x") == "released"
    answers = []
    for state in (d.oracle.state, d.state):
        x = state.tasks["x"]
        recs, instructions = state._transition(x, "waiting", stimulus_id="s")
        answers.append((by_key(recs), instructions, x.state))
        recs, instructions = state._transition(x, ("memory", 1, 5), stimulus_id="s")
        answers.append((by_key(recs), instructions, x.state))
    assert answers[:2] == answers[2:]
    assert answers[0] == ([("x", "ready")], [], "waiting")


# --- plugins, subclasses


def test_plugins() -> None:
    calls = []

    class Listener(WorkerPlugin):
        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            calls.append((key, start, finish, kwargs))
            raise RuntimeError("is logged, and else ignored")

    class Deaf(WorkerPlugin):
        pass

    class Plain:
        """Not even a WorkerPlugin."""

    plugins: dict[str, Any] = {"deaf": Deaf(), "plain": Plain(), "listener": Listener()}
    ws = WorkerState(address=HERE, plugins=plugins)
    ws.handle_stimulus(compute("x"))
    assert calls == [
        ("x", "released", "waiting", {}),
        ("x", "waiting", "ready", {}),
        ("x", "ready", "executing", {}),
    ]
    # One that gets its hook later, and one that is gone.
    plugins["plain"].transition = lambda *args: calls.append(args)
    del plugins["listener"]
    calls.clear()
    ws.handle_stimulus(success("x"))
    assert calls == [("x", "executing", "memory")]


def test_plugin_sees_the_state() -> None:
    seen = []

    class Listener(WorkerPlugin):
        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            seen.append((ws.tasks[key].state, len(ws.executing), len(ws.ready)))

    ws = WorkerState(address=HERE, plugins={"listener": Listener()})
    ws.handle_stimulus(compute("x"))
    assert seen == [("waiting", 0, 0), ("ready", 1, 0), ("executing", 1, 0)]


def test_subclass() -> None:
    class Loud(WorkerState):
        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            self.heard: list[str] = []

        def handle_stimulus(self, *stims: Any) -> Any:
            self.heard += [type(stim).__name__ for stim in stims]
            return super().handle_stimulus(*stims)

    ws = Loud(address=HERE, nthreads=2)
    assert ws.handle_stimulus(compute("x"), compute("y")) == [execute("x"), execute("y")]
    assert ws.heard == ["ComputeTaskEvent"] * 2 and ws.executing_count == 2


# --- on distributed's own worker


def inc(x: int) -> int:
    return x + 1


def fail(x: int) -> int:
    raise ValueError(x)


def step_aside(x: int) -> int:
    distributed.secede()
    return x + 1


async def use_stock_worker() -> None:
    """distributed's Worker with our state: transfers, errors, secede, resources, release."""
    common = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "validate": True}
    async with distributed.Scheduler(port=0, **common) as s:
        common["WorkerStateClass"] = WorkerState
        async with (
            distributed.Worker(s.address, nthreads=2, resources={"GPU": 1}, **common) as a,
            distributed.Worker(s.address, nthreads=1, **common) as b,
            distributed.Client(s.address, asynchronous=True) as c,
        ):
            assert type(a.state) is type(b.state) is WorkerState
            x = c.map(inc, range(20), workers=[a.address])
            y = c.map(inc, x, workers=[b.address])
            assert await c.gather(c.submit(sum, y)) == sum(range(20)) + 40
            assert b.state.transfer_incoming_count_total > 0
            z = c.map(step_aside, range(5))
            g = c.map(inc, range(5, 10), resources={"GPU": 1})
            assert await c.gather(z + g) == list(range(1, 11))
            bad = c.submit(fail, 5)
            with pytest.raises(ValueError, match="5"):
                await bad
            scattered = await c.scatter([1, 2, 3], broadcast=True)
            assert await c.gather(c.map(inc, scattered)) == [2, 3, 4]
            assert {ts.state for w in (a, b) for ts in w.state.tasks.values()} <= {
                "memory",
                "error",
                "released",
            }
            for worker in (a, b):
                worker.state.validate_state()
                assert type(next(iter(worker.state.tasks.values()))) is TaskState
                assert worker.data.keys() <= worker.state.tasks.keys()
            bad.release()  # its traceback refers to itself
            del x, y, z, g, bad, scattered
            while a.state.tasks or b.state.tasks:
                await asyncio.sleep(0.01)
            assert a.state.nbytes == b.state.nbytes == 0
            assert a.state.available_resources == {"GPU": 1}


@pytest.mark.timeout(90)
def test_stock_worker() -> None:
    asyncio.run(asyncio.wait_for(use_stock_worker(), 60))
