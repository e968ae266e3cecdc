"""Which task pull threads run, and when; and what they do when the worker closes.

Every test runs with distributed's own worker too, which says what is right.
"""

from __future__ import annotations

import asyncio
import threading

from dask.utils_test import inc
from distributed import get_worker
from distributed.core import Status
from distributed.utils_test import wait_for_state

from support.beside_stock import as_stock
from support.in_process import gate, until

ORDER: list[object] = []


def note(value):
    ORDER.append(value)
    return value


@as_stock()
async def test_priorities(c, s, a):
    ORDER.clear()
    with gate("priorities") as g:
        held = c.submit(g.pass_through, "held", key="held")
        await until(g.entered.is_set)
        futures = [c.submit(note, i, key=key, priority=i) for i, key in enumerate("uvwxyz")]
        await until(lambda: len(a.state.ready) == 6)
        g.opened.set()
        assert await c.gather([held, *futures]) == ["held", *range(6)]
    assert ORDER == [5, 4, 3, 2, 1, 0]


@as_stock(config={"distributed.worker.memory.pause": False})  # or it would take itself up again
async def test_a_paused_worker_finishes_what_it_runs_and_begins_nothing(c, s, a):
    ORDER.clear()
    with gate("paused") as g:
        held = c.submit(g.pass_through, "held", key="held")
        await until(g.entered.is_set)
        futures = [c.submit(note, key, key=key) for key in "xyz"]
        await until(lambda: len(a.state.ready) == 3)
        a.status = Status.paused
        g.opened.set()
        assert await held == "held"
    # Whatever comes after the end of the task has come: a message there and back
    await c.run(lambda: None)
    assert ORDER == []
    assert len(a.state.ready) == 3
    a.status = Status.running
    assert await c.gather(futures) == ["x", "y", "z"]


RUNNING: set[int] = set()


def alone(i):
    assert not RUNNING
    RUNNING.add(i)
    for _ in range(100):
        threading.Event().wait(0.0001)
        assert {i} == RUNNING
    RUNNING.remove(i)


@as_stock(nthreads=[("127.0.0.1", 3, {"resources": {"R": 1}})])
async def test_resources(c, s, a):
    RUNNING.clear()
    limited = c.map(alone, range(20), resources={"R": 1})
    others = c.map(inc, range(200))
    await c.gather([*limited, *others])
    assert a.state.available_resources == {"R": 1}


@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_stealing_a_task_that_has_not_begun(c, s, a, b):
    stealing = s.extensions["stealing"]
    await stealing.stop()  # to do it by hand
    with gate("stealing") as g:
        held = c.submit(g.pass_through, key="held", workers=[a.address], allow_other_workers=True)
        await until(g.entered.is_set)
        x = c.submit(
            lambda: get_worker().address, key="x", workers=[a.address], allow_other_workers=True
        )
        await wait_for_state("x", "ready", a)
        for key in ("x", "held"):  # one that may be moved, and one that runs already
            stealing.move_task_request(s.tasks[key], s.workers[a.address], s.workers[b.address])
        assert await x == b.address
        assert "x" not in a.state.tasks
        assert s.tasks["held"].processing_on is s.workers[a.address]
        g.opened.set()
        await held
    assert "held" not in b.state.tasks


@as_stock()
async def test_cancelling(c, s, a):
    """What runs goes on to its end, for nothing; what has not begun never does."""
    ORDER.clear()
    with gate("cancelling") as g:

        def run():
            return note(g.pass_through("ran for nothing"))

        running = c.submit(run, key="running")
        await until(g.entered.is_set)
        waiting = c.submit(note, "never", key="waiting")
        await wait_for_state("waiting", "ready", a)
        await c.cancel([running, waiting])
        await wait_for_state("running", "cancelled", a)
        await until(lambda: "waiting" not in a.state.tasks)
        other = c.submit(note, "other", key="other")
        await wait_for_state("other", "ready", a)  # the thread is not free
        assert a.state.executing == {a.state.tasks["running"]}
        g.opened.set()
        assert await other == "other"
    assert ORDER == ["ran for nothing", "other"]
    assert running.status == "cancelled"
    assert set(a.data) == {"other"}
    await until(lambda: "running" not in a.state.tasks)


@as_stock()
async def test_a_task_that_is_wanted_again_while_it_runs_for_nothing(c, s, a):
    with gate("again") as g:
        x = c.submit(g.pass_through, "value", key="x")
        await until(g.entered.is_set)
        await c.cancel(x)
        await wait_for_state("x", "cancelled", a)
        x = c.submit(g.pass_through, "value", key="x")
        await wait_for_state("x", "executing", a)
        assert len(a.active_threads) == 1
        g.opened.set()
        assert await x == "value"


# --------------------------------------------------------------------- the end of the worker


@as_stock()
async def test_closing_waits_for_the_task_that_runs(c, s, a):
    ORDER.clear()
    with gate("closing") as g:

        def run():
            return note(g.pass_through("ended"))

        x = c.submit(run, key="x")
        await until(g.entered.is_set)
        y = c.submit(note, "never", key="y")
        await wait_for_state("y", "ready", a)
        closing = asyncio.create_task(a.close())
        await until(lambda: not s.workers)
        assert not closing.done()
        g.opened.set()
        await closing
    assert ORDER == ["ended"]
    assert {x.status, y.status} == {"pending"}
    assert not any(thread.is_alive() for thread in a.executors["default"]._threads)


@as_stock()
async def test_closing_without_waiting(c, s, a):
    with gate("closing-at-once") as g:
        x = c.submit(g.pass_through, key="x")
        await until(g.entered.is_set)
        await a.close(executor_wait=False)
        assert x.status == "pending"
        threads = list(a.executors["default"]._threads)
        assert [thread.is_alive() for thread in threads] == [True]
        g.opened.set()
        await until(lambda: not threads[0].is_alive())
