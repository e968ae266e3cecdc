"""Moving tasks between states by hand: every finish, and every refusal."""

from __future__ import annotations

import asyncio

import pytest
from dask.utils_test import inc
from distributed import wait
from distributed.utils_test import wait_for_state
from distributed.worker_state_machine import InvalidTransition

from fastworker.control.checks import STATES
from support.in_process import (
    ONE_WORKER,
    HeldTransfers,
    cluster,
    gate,
    heard,
    snapshot,
    until,
    waiting_task,
)


def fail(x):
    raise ValueError("it went wrong", x)


@cluster()
async def test_to_the_same_state(c, s, a, b):
    await c.submit(inc, 1, key="x", workers=[a.address])
    before = snapshot(a)
    a.transition("x", "memory")
    assert snapshot(a) == before


@cluster(nthreads=ONE_WORKER)
async def test_memory_to_released_and_forgotten(c, s, a):
    a.update_data({"x": 1, "y": 2})
    a.transition("x", "released")
    assert set(a.tasks) == {"y"}
    a.transition("y", "forgotten")
    assert not a.tasks
    assert not a.data


@cluster(nthreads=ONE_WORKER)
async def test_memory_with_a_user_is_not_forgotten(c, s, a):
    a.update_data({"x": 1})
    y = c.submit(inc, c.submit(inc, 1, key="z", workers=[a.address]), key="y")
    await y
    before = snapshot(a)
    with pytest.raises(ValueError, match=r"'z' cannot be forgotten: it is an input of \['y'\]"):
        a.transition("z", "forgotten")
    assert snapshot(a) == before
    a.transition("z", "released")
    assert a.task_state == {"x": "memory", "y": "memory", "z": "released"}
    before = snapshot(a)
    with pytest.raises(ValueError, match=r"'z' cannot be forgotten: it is an input of \['y'\]"):
        a.transition("z", "forgotten")
    assert snapshot(a) == before


@cluster(nthreads=ONE_WORKER)
async def test_memory_to_waiting_runs_it_again(c, s, a):
    runs = []

    def count():
        runs.append(1)
        return len(runs)

    a.add_task("x", 0, {}, count)
    await a.execute("x")
    a.transition("x", "waiting")
    assert a.task_state["x"] == "executing"
    await a.execute("x")
    assert len(runs) == 2
    a.update_data({"data": 1})
    with pytest.raises(ValueError, match="'data' is data: there is nothing to run"):
        a.transition("data", "waiting")
    y = c.submit(inc, 1, key="y")
    await y
    with pytest.raises(ValueError, match="'y' has been run, and what to call is not kept"):
        a.transition("y", "waiting")
    assert await y == 2


@cluster()
async def test_memory_to_fetch(c, s, a, b):
    """The data is dropped here and fetched again from the worker that the scheduler names."""
    x = await c.scatter({"x": 1}, workers=[b.address])
    y = c.submit(inc, x["x"], key="y", workers=[a.address])
    await y
    assert a.task_state["x"] == "memory"
    a.transition("x", "fetch")
    assert a.task_state["x"] == "missing"
    a.handle_missing_dep(["x"])
    await until(lambda: a.task_state["x"] == "memory")
    assert a.data["x"] == 1


@cluster(nthreads=ONE_WORKER)
async def test_memory_to_fetch_without_a_priority(c, s, a):
    a.update_data({"x": 1})
    before = snapshot(a)
    with pytest.raises(ValueError, match="'x' has no priority: nothing here ever needed it"):
        a.transition("x", "fetch")
    assert snapshot(a) == before


@cluster(nthreads=ONE_WORKER)
async def test_to_memory_needs_a_value(c, s, a):
    async with waiting_task(c, a) as (x, _):
        before = snapshot(a)
        with pytest.raises(TypeError, match="a transition to memory needs the value"):
            a.transition("x", "memory")
        assert snapshot(a) == before
        a.transition("x", "memory", value=None)
        assert await x is None


@cluster(nthreads=ONE_WORKER)
async def test_to_error_needs_an_exception(c, s, a):
    async with waiting_task(c, a) as (x, _):
        before = snapshot(a)
        with pytest.raises(TypeError, match="a transition to error needs the exception; got None"):
            a.transition("x", "error")
        with pytest.raises(TypeError, match="needs the exception; got 'oops'"):
            a.transition("x", "error", exception="oops")
        assert snapshot(a) == before
        with pytest.raises(KeyError, match="no task 'unknown'"):
            a.transition("unknown", "error")
        error = ZeroDivisionError("by hand")
        a.transition("x", "error", exception=error)
        assert error.__traceback__ is None  # it would hold this frame
        assert a.task_state["x"] == "error"
        a.transition("x", "error")
        with pytest.raises(ZeroDivisionError, match="by hand"):
            await x


@cluster(nthreads=ONE_WORKER)
async def test_error_to_waiting_tries_again(c, s, a):
    tries = []

    def second_time():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")
        return "now"

    a.add_task("x", 0, {}, second_time)
    await a.execute("x")
    assert a.task_state["x"] == "error"
    a.transition("x", "waiting")
    assert (await a.execute("x")).value == "now"


@cluster(nthreads=ONE_WORKER)
async def test_ready_to_released_has_it_run_again(c, s, a):
    async with waiting_task(c, a) as (x, g):
        for finish in ("released", "forgotten", "fetch", "missing"):
            rescheduled = heard(s, "reschedule")
            a.transition("x", finish)
            assert a.task_state.get("x") in (None, "missing")
            await until(lambda heard=rescheduled: heard)
            await wait_for_state("x", "ready", a)
        g.opened.set()
        assert await x == 2


@cluster(nthreads=ONE_WORKER)
async def test_ready_to_executing(c, s, a):
    async with waiting_task(c, a) as (x, g):
        before = snapshot(a)
        with pytest.raises(ValueError, match="'x' cannot start: every thread is taken"):
            a.transition("x", "executing")
        assert snapshot(a) == before
        a.state.nthreads = 2
        a.transition("x", "executing")
        assert a.task_state["x"] == "executing"
        a.state.nthreads = 1
        g.opened.set()
        assert await x == 2


@cluster(nthreads=ONE_WORKER, worker_kwargs={"resources": {"GPU": 1}})
async def test_to_ready_and_constrained(c, s, a):
    """A task goes there by itself once its inputs are here; there is nothing to hasten."""
    async with waiting_task(c, a, "constrained", resources={"GPU": 1}) as (x, g):
        with pytest.raises(ValueError, match=r"'x' cannot start: .* lacks resources"):
            a.transition("x", "executing")
        with pytest.raises(InvalidTransition, match="'x' :: constrained->ready"):
            a.transition("x", "ready")
        g.opened.set()
        assert await x == 2


@cluster()
async def test_waiting_to_ready(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x = await c.scatter({"x": 1}, workers=[b.address])
        y = c.submit(inc, x["x"], key="y", workers=[w.address])
        await w.in_gather_dep.wait()
        before = snapshot(w)
        for finish in ("ready", "constrained"):
            with pytest.raises(ValueError, match=r"task 'y' still waits for \['x'\]"):
                w.transition("y", finish)
        assert snapshot(w) == before
        w.block_gather_dep.set()
        assert await y == 2


@cluster()
async def test_executing(c, s, a, b):
    with gate("executing") as g:
        x = c.submit(g.pass_through, 1, key="x", workers=[a.address])
        await until(g.entered.is_set)
        before = snapshot(a)
        for finish in ("memory", "error", "waiting", "missing", "forgotten"):
            with pytest.raises(
                ValueError,
                match=f"task 'x' is executing; only the end of that can make it {finish}",
            ):
                a.transition("x", finish, value=1, exception=ValueError())
        for finish in ("ready", "constrained", "flight", "cancelled", "resumed"):
            with pytest.raises(InvalidTransition, match=f"'x' :: executing->{finish}"):
                a.transition("x", finish)
        assert snapshot(a) == before

        seceded = heard(s, "long-running")
        a.transition("x", "long-running", compute_duration=12.5)
        assert a.task_state["x"] == "long-running"
        assert a.state.long_running == {a.tasks["x"]}
        await until(lambda: seceded)
        assert (seceded[0]["key"], seceded[0]["compute_duration"]) == ("x", 12.5)

        a.transition("x", "rescheduled")
        assert a.task_state["x"] == "cancelled"
        await until(lambda: a.task_state["x"] == "long-running" and s.tasks["x"].processing_on)
        g.opened.set()
        assert await x == 1


@cluster(nthreads=ONE_WORKER)
async def test_executing_to_released_and_back(c, s, a):
    with gate("back") as g:
        a.add_task("x", 0, {}, g.pass_through, (1,))
        await until(g.entered.is_set)
        a.transition("x", "released")
        assert a.task_state["x"] == "cancelled"
        before = snapshot(a)
        for finish in ("memory", "error", "missing", "rescheduled", "forgotten"):
            with pytest.raises(ValueError, match="task 'x' is cancelled; only the end of that"):
                a.transition("x", finish, value=1, exception=ValueError())
        assert snapshot(a) == before
        a.transition("x", "fetch")
        assert (a.task_state["x"], a.tasks["x"].next) == ("resumed", "fetch")
        with pytest.raises(ValueError, match="task 'x' is resumed; only the end of that"):
            a.transition("x", "memory", value=1)
        a.transition("x", "released")
        assert a.task_state["x"] == "cancelled"
        a.transition("x", "waiting")
        assert a.task_state["x"] == "executing"
        g.opened.set()
        assert (await a.execute("x")).value == 1


@cluster()
async def test_executing_to_long_running_counts_from_its_start(c, s, a, b):
    with gate("long") as g:
        x = c.submit(g.pass_through, 1, key="x", workers=[a.address])
        await until(g.entered.is_set)
        seceded = heard(s, "long-running")
        a.transition("x", "long-running")
        await until(lambda: seceded)
        assert 0 <= seceded[0]["compute_duration"] < 30
        g.opened.set()
        assert await x == 1


# inputs


@cluster()
async def test_the_life_of_an_input(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x1 = await c.scatter({"x1": 1}, workers=[b.address])
        y1 = c.submit(inc, x1["x1"], key="y1", workers=[w.address])
        await w.in_gather_dep.wait()
        x2 = await c.scatter({"x2": 2}, workers=[b.address])
        y2 = c.submit(inc, x2["x2"], key="y2", workers=[w.address])
        await wait_for_state("x2", "fetch", w)

        before = snapshot(w)
        with pytest.raises(ValueError, match="'x2' cannot be fetched now: its holders are busy"):
            w.transition_dep("x2", "flight")
        for finish in ("memory", "error", "fetch", "missing", "forgotten"):
            with pytest.raises(
                ValueError, match=f"'x1' is flight; only the end of that can make it {finish}"
            ):
                w.transition_dep("x1", finish, value=1, exception=ValueError())
        with pytest.raises(ValueError, match="'x2' is needed here by 'y2'"):
            w.transition_dep("x2", "error", exception=ValueError())
        with pytest.raises(ValueError, match="'x2' is needed here by 'y2'"):
            w.transition_dep("x2", "released")
        with pytest.raises(ValueError, match="'x2' is data: there is nothing to run"):
            w.transition("x2", "waiting")
        assert snapshot(w) == before

        w.transition_dep("x2", "missing")
        assert w.missing_dep_flight == {w.tasks["x2"]}
        before = snapshot(w)
        with pytest.raises(ValueError, match="no holder of 'x2' is known"):
            w.transition_dep("x2", "fetch")
        with pytest.raises(ValueError, match="no holder of 'x2' is known"):
            w.transition_dep("x2", "error", exception=ValueError())
        assert snapshot(w) == before
        w.update_who_has({"x2": [b.address]})
        assert w.dep_state["x2"] == "fetch"
        w.transition_dep("x2", "memory", value=20)
        assert await y2 == 21
        w.block_gather_dep.set()
        assert await y1 == 2
        w.transition_dep("x1", "released")
        assert "x1" not in w.data


@cluster()
async def test_an_input_in_flight_that_no_task_needs(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x = await c.scatter({"x": 1}, workers=[b.address])
        y = c.submit(inc, x["x"], key="y", workers=[w.address])
        await w.in_gather_dep.wait()
        y.release()
        await until(lambda: w.task_state == {"x": "cancelled"})
        before = snapshot(w)
        with pytest.raises(ValueError, match="'x' is being fetched, it does not run"):
            w.transition("x", "long-running")
        assert snapshot(w) == before
        w.transition_dep("x", "fetch")
        assert w.task_state == {"x": "flight"}
        w.transition_dep("x", "released")
        w.block_gather_dep.set()
        await until(lambda: not w.tasks)


@cluster()
async def test_transition_dep_refuses(c, s, a, b):
    with gate("not-a-dep") as g:
        x = c.submit(g.pass_through, 1, key="x", workers=[a.address])
        await until(g.entered.is_set)
        before = snapshot(a)
        with pytest.raises(ValueError, match="an input is never executing; expected cancelled, "):
            a.transition_dep("x", "executing")
        with pytest.raises(ValueError, match="'x' is to be run here, it is executing; use tran"):
            a.transition_dep("x", "released")
        with pytest.raises(KeyError, match="no task 'unheard of'"):
            a.transition_dep("unheard of", "released")
        with pytest.raises(ValueError, match="unknown task state 'flying'; expected one of "):
            a.transition_dep("x", "flying")
        assert snapshot(a) == before
        g.opened.set()
        await x


@cluster(nthreads=ONE_WORKER)
async def test_transition_refuses(c, s, a):
    await c.submit(inc, 1, key="x")
    before = snapshot(a)
    with pytest.raises(KeyError, match="no task 'unheard of' on tcp://"):
        a.transition("unheard of", "released")
    with pytest.raises(ValueError, match="a task needs a key; got a blank one: ''"):
        a.transition("", "released")
    with pytest.raises(ValueError, match="unknown task state 'flying'; expected one of cancelled"):
        a.transition("x", "flying")
    with pytest.raises(ValueError, match="unknown task state 5"):
        a.transition("x", 5)
    for finish in ("ready", "executing", "flight", "cancelled", "resumed", "rescheduled"):
        with pytest.raises(InvalidTransition, match=f"'x' :: memory->{finish}"):
            a.transition("x", finish)
    assert snapshot(a) == before
    with pytest.raises(RuntimeError, match="thread of its event loop"):
        await asyncio.to_thread(a.transition, "x", "released")
    assert snapshot(a) == before


@pytest.mark.parametrize("finish", STATES)
@pytest.mark.parametrize(
    "start", ["memory", "error", "ready", "executing", "waiting", "flight", "fetch", "missing"]
)
@cluster(config={"distributed.worker.validate": True})
async def test_no_move_breaks_the_machine(c, s, a, b, start, finish):
    """From every state to every state: it works, or it is refused and changes nothing. Either
    way the state machine's books are right, and the cluster comes to rest with every result."""
    async with HeldTransfers(s.address, nthreads=1) as w:
        with gate(f"{start}-{finish}") as g:
            await c.scatter({"flight": 1, "fetch": 2, "missing": 3}, workers=[b.address])
            futures = [c.submit(g.pass_through, 0, key="executing", workers=[w.address])]
            await until(g.entered.is_set)
            futures.append(c.submit(inc, 1, key="ready", workers=[w.address]))
            await wait_for_state("ready", "ready", w)
            w.add_task("waiting", 0, {"flight": [b.address]}, inc, ("flight",))
            await w.in_gather_dep.wait()
            w.add_task("user1", 0, {"fetch": [b.address]}, inc, ("fetch",))
            w.add_task("user2", 0, {"missing": [b.address]}, inc, ("missing",))
            w.update_who_has({"missing": []})
            w.update_data({"memory": 1})
            w.add_task("error", -1, {}, fail, (1,))
            w.transition("error", "error", exception=ValueError("by hand"))
            # The worker asks the scheduler for it every second; of "missing", it has never heard
            w.periodic_callbacks["find-missing"].stop()
            if start == "missing":
                w.update_who_has({"missing": []})
            assert w.task_state[start] == start
            before = snapshot(w)
            try:
                w.transition(start, finish, value=1, exception=ValueError("by hand"))
            except (ValueError, InvalidTransition):
                assert snapshot(w) == before
            w.validate_state()
            w.block_gather_dep.set()
            g.opened.set()
            await wait(futures)
            moved = {start} & {"executing", "ready"} if finish in ("memory", "error") else set()
            for future, result in zip(futures, (0, 2), strict=True):
                if future.key not in moved:
                    assert await future == result
            w.validate_state()
            assert w.status.name == "running"
