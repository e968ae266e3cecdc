"""What can be read off a worker: every view, of a worker with work in every stage."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set

import pytest
from dask.utils_test import inc
from distributed.utils_test import wait_for_state
from distributed.worker_state_machine import WorkerState as StockWorkerState

from fastworker.control.views import DEPENDENCY_TRANSITIONS, TRANSITIONS
from support.in_process import ONE_WORKER, HeldTransfers, cluster, gate, until


@cluster()
async def test_a_task_that_has_run(c, s, a, b):
    x = await c.scatter(1, workers=[a.address])
    y = c.submit(inc, x, key="y", workers=[a.address])
    assert await y == 2
    assert set(a.tasks) == {x.key, "y"}
    assert a.tasks["y"] is a.state.tasks["y"]
    assert a.task_state == {x.key: "memory", "y": "memory"}
    assert a.dep_state == {x.key: "memory"}
    assert a.dependencies == {x.key: frozenset(), "y": {x.key}}
    assert a.dependents == {x.key: {"y"}, "y": frozenset()}
    assert a.waiting_for_data == {}
    assert dict(a.data) == {x.key: 1, "y": 2}
    assert set(a.priorities) == {x.key, "y"}
    assert a.priorities["y"] == a.state.tasks["y"].priority
    assert a.priorities["y"][-1] == a.priority_counter + 1


@cluster()
async def test_the_priority_counter_goes_down(c, s, a, b):
    before = a.priority_counter
    await c.gather(c.map(inc, range(3), workers=[a.address]))
    assert a.priority_counter == before - 3


@cluster(nthreads=ONE_WORKER)
async def test_ready_is_in_the_order_of_running(c, s, a):
    with gate("ready") as g:
        running = c.submit(g.pass_through, key="running", workers=[a.address])
        await until(g.entered.is_set)
        low = c.submit(inc, 1, key="low", priority=-1, workers=[a.address])
        high = c.submit(inc, 2, key="high", priority=1, workers=[a.address])
        await wait_for_state("high", "ready", a)
        await wait_for_state("low", "ready", a)
        assert [ts.key for ts in a.ready] == ["high", "low"]
        assert a.ready.peek().key == "high"
        assert len(a.ready) == 2
        assert "low" in a.ready
        assert a.tasks["low"] in a.ready
        assert "running" not in a.ready
        assert "unheard of" not in a.ready
        assert ["unhashable"] not in a.ready
        assert a.task_state["running"] == "executing"
        g.opened.set()
        await c.gather([running, low, high])
    assert not a.ready
    with pytest.raises(KeyError, match="no task is ready"):
        a.ready.peek()


@cluster()
async def test_data_on_its_way(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x1 = await c.scatter({"x1": 1}, workers=[b.address])
        x2 = await c.scatter({"x2": 2}, workers=[a.address, b.address], broadcast=True)
        y1 = c.submit(inc, x1["x1"], key="y1", workers=[w.address])
        await w.in_gather_dep.wait()
        x3 = await c.scatter({"x3": 3}, workers=[b.address])
        y3 = c.submit(inc, x3["x3"], key="y3", workers=[w.address])
        await wait_for_state("x3", "fetch", w)

        assert w.task_state == {"x1": "flight", "y1": "waiting", "x3": "fetch", "y3": "waiting"}
        assert w.dep_state == {"x1": "flight", "x3": "fetch"}
        assert w.waiting_for_data == {"y1": {"x1"}, "y3": {"x3"}}
        assert w.in_flight_workers == {b.address: {"x1"}}
        assert w.pending_data_per_worker == {b.address: ["x3"]}
        assert w.who_has == {"x1": {b.address}, "x3": {b.address}}
        assert w.has_what == {b.address: {"x1", "x3"}}
        assert w.data_needed == {w.tasks["x3"]}
        assert "x3" in w.data_needed
        assert "x1" not in w.data_needed
        assert not w.missing_dep_flight

        w.update_who_has({"x3": []})
        assert w.missing_dep_flight == {w.tasks["x3"]}
        assert "x3" in w.missing_dep_flight
        assert w.task_state["x3"] == "missing"
        assert w.data_needed == set()
        assert w.pending_data_per_worker == {}
        assert w.has_what == {b.address: {"x1"}}

        w.block_gather_dep.set()
        assert await c.gather([y1, y3]) == [2, 4]
        assert not w.in_flight_workers
        assert not w.missing_dep_flight
        del x2


@cluster(nthreads=ONE_WORKER)
async def test_views_are_live_and_read_only(c, s, a):
    tasks, states, ready, needed = a.tasks, a.task_state, a.ready, a.data_needed
    assert len(tasks) == len(states) == len(ready) == len(needed) == 0
    await c.submit(inc, 1, key="x", workers=[a.address])
    assert "x" in tasks
    assert list(states.items()) == [("x", "memory")]
    assert repr(states) == "MappingView({'x': 'memory'})"
    for view in (tasks, states, a.priorities, a.dep_state, a.who_has, a.has_what):
        assert isinstance(view, Mapping)
        with pytest.raises(TypeError):
            view["x"] = 1
        with pytest.raises(KeyError):
            view["unheard of"]
        assert "unheard of" not in view
    for view in (ready, needed, a.missing_dep_flight):
        assert isinstance(view, Set)
        assert not hasattr(view, "add")
    # Asking for an unknown peer must not make one up.
    with pytest.raises(KeyError):
        a.has_what["tcp://1.2.3.4:5"]
    assert "tcp://1.2.3.4:5" not in a.state.has_what
    for key in states:  # the state may change while a caller iterates
        a.release_key(key)
    assert not states


@cluster(nthreads=ONE_WORKER)
async def test_views_do_not_warn(c, s, a):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(a.tasks) == len(a.ready) == len(a.data_needed) == 0
        assert a.has_what == a.in_flight_workers == {}


@cluster()
async def test_transitions(c, s, a, b):
    assert set(a.transitions) == set(StockWorkerState._TRANSITIONS_TABLE) == TRANSITIONS
    assert ("fetch", "executing") not in a.transitions
    with pytest.raises(KeyError):
        a.transitions["fetch", "executing"]
    assert len(a.transitions) == len(TRANSITIONS)
    assert repr(a.transitions["waiting", "ready"]) == "<transition waiting -> ready>"

    assert set(a.dep_transitions) == DEPENDENCY_TRANSITIONS
    assert set(a.dep_transitions) < set(a.transitions)
    assert ("flight", "memory") in a.dep_transitions
    assert ("ready", "executing") not in a.dep_transitions

    x = c.submit(inc, 1, key="x", workers=[a.address])
    await x
    with pytest.raises(ValueError, match="'x' is in state 'memory', not 'fetch'"):
        a.transitions["fetch", "released"]("x")
    with pytest.raises(KeyError, match="unheard of"):
        a.transitions["fetch", "released"]("unheard of")
    a.transitions["memory", "released"]("x")
    assert "x" not in a.tasks


@cluster(nthreads=ONE_WORKER)
async def test_the_core_has_the_same_transitions(c, s, a):
    core = pytest.importorskip("fastworker.core")
    if hasattr(core, "TRANSITIONS"):
        assert set(core.TRANSITIONS) == TRANSITIONS


@cluster(nthreads=ONE_WORKER)
async def test_plumbing(c, s, a):
    assert a.compute_stream_handlers is a.stream_handlers
    assert {"compute-task", "free-keys", "steal-request"} <= set(a.compute_stream_handlers)
    assert {"get_data", "gather", "update_data", "terminate"} <= set(a.handlers)
    assert a.scheduler_address == s.address
    assert a.connection_pool is a.rpc
    assert a.batched_stream.comm.peer_address == s.address
    assert a.listener.contact_address == a.address
    assert a.status.name == "running"
