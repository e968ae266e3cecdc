"""How tasks end in pull threads, as in threads of stock's, and what is left of them.

Every test runs with distributed's own worker too, which says what is right.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import weakref

import distributed
import pytest
from dask.utils_test import inc
from distributed import Reschedule, get_worker, secede
from distributed.core import Status
from distributed.scheduler import KilledWorker
from distributed.utils import thread_state

from support.beside_stock import WORKERS, as_stock
from support.in_process import cluster, gate, until


def deep(n):
    if n:
        return deep(n - 1)
    raise ValueError("deep")


def deeper():
    deep(3)


def chained():
    try:
        deep(1)
    except ValueError as error:
        raise KeyError("chained") from error


def in_cleanup():
    try:
        deep(1)
    finally:
        deep(0)


def without_a_repr():
    class Odd(Exception):
        def __repr__(self):
            raise RuntimeError("no repr")

    raise Odd("odd")


@pytest.mark.parametrize("fail", [deeper, chained, in_cleanup])
@cluster(nthreads=[])
async def test_tracebacks(c, s, fail):
    """Frame by frame the same, and beginning below whatever runs tasks."""
    texts, frames = [], []
    for Worker in WORKERS.values():
        async with Worker(s.address, nthreads=1) as worker:
            future = c.submit(fail, key="x")
            error = await future.exception()
            traceback = await future.traceback()
            frames.append([])
            while traceback is not None:
                code = traceback.tb_frame.f_code
                frames[-1].append((os.path.basename(code.co_filename), code.co_name))
                traceback = traceback.tb_next
            ts = worker.state.tasks["x"]
            texts.append((ts.exception_text, ts.traceback_text, repr(error.__cause__)))
            future.release()
            await until(lambda: not s.tasks)
    assert texts[0] == texts[1]
    assert frames[0] == frames[1]
    assert frames[1][0][1] == fail.__name__


@as_stock()
async def test_an_error_that_cannot_be_told(c, s, a):
    """What went wrong with it takes its place, and the worker goes on."""
    with pytest.raises(RuntimeError, match="no repr"):
        await c.submit(without_a_repr)
    assert await c.submit(inc, 1) == 2


TRIES: list[str] = []


def reschedule_until(count):
    TRIES.append(thread_state.key)
    if len(TRIES) < count:
        raise Reschedule
    return get_worker().state.tasks[thread_state.key].run_id


@as_stock()
async def test_reschedule(c, s, a):
    TRIES.clear()
    x = c.submit(reschedule_until, 4, key="x")
    assert await x == s.tasks["x"].run_id
    assert TRIES == ["x"] * 4
    finishes = [entry[2] for entry in a.state.log if entry[0] == "x" and len(entry) > 3]
    assert finishes.count("rescheduled") == 3


def raise_it(error):
    raise error("raised")


@pytest.mark.parametrize("error", [BaseException, GeneratorExit, asyncio.CancelledError])
@as_stock()
async def test_errors_that_are_no_exceptions(c, s, a, *, error):
    x = c.submit(raise_it, error, key="x")
    await distributed.wait(x)
    assert x.status == "error"
    assert type(await x.exception()) is error
    assert await c.submit(inc, 1) == 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@as_stock(nanny=True, config={"distributed.scheduler.allowed-failures": 0})
async def test_errors_that_end_the_process(c, s, a, *, error):
    """The nanny starts another one, and the scheduler knows whose fault it was."""

    def raise_there(error):  # pickled by value, as that process cannot import this file
        raise error("raised")

    pid = a.pid
    with pytest.raises(KilledWorker):
        await c.submit(raise_there, error, key="x")
    assert await c.submit(inc, 1) == 2
    assert a.pid not in (pid, None)
    assert a.status is Status.running


@as_stock()
async def test_what_a_task_logs_comes_before_its_end(c, s, a):
    def task():
        for i in range(3):
            get_worker().log_event(["first", "second"], i)
            get_worker().log_event("first", str(i))
        with pytest.raises(TypeError, match="msgpack"):
            get_worker().log_event("first", object())

    for i in range(1, 11):
        await c.submit(task, pure=False)
        assert [event for _, event in s.get_events("first")][-2:] == [2, "2"]
        assert len(s.get_events("first")) == 6 * i
        assert len(s.get_events("second")) == 3 * i


class Watched:
    """An object of which it is known whether it still exists."""

    alive: weakref.WeakSet[Watched] = weakref.WeakSet()

    def __init__(self):
        self.alive.add(self)


def with_one_more(x=None, fail=False):
    local = Watched()
    if fail:
        raise ValueError("with a local variable")
    return local


@pytest.mark.parametrize("fail", [False, True])
@as_stock()
async def test_nothing_is_held_of_a_task_that_is_over(c, s, a, *, fail):
    """Its inputs, its result or the variables of its frames; by a thread that waits for work."""
    x = c.submit(with_one_more, key="x")
    y = c.submit(with_one_more, x, fail, key="y")
    await distributed.wait(y)
    assert y.status == ("error" if fail else "finished")
    assert Watched.alive
    del x, y
    await until(lambda: not a.state.tasks)
    # Cycles are no holding: stock's wait for the collector, which may take its time
    await until(lambda: gc.collect() >= 0 and not Watched.alive)


@as_stock()
async def test_an_error_is_not_in_the_way_of_the_next_task(c, s, a):
    with gate("errors") as g:
        held = c.submit(g.pass_through, key="held")
        await until(g.entered.is_set)
        bad = c.submit(raise_it, ValueError, key="bad", priority=1)
        next_one = c.submit(lambda: sys.exc_info(), key="next")
        await until(lambda: len(a.state.ready) == 2)
        g.opened.set()
        await held
        assert await next_one == (None, None, None)
        assert bad.status == "error"


@as_stock()
async def test_a_task_gives_its_resources_back_however_it_ends(c, s, a):
    await a.set_resources(R=1)

    def end(i):
        if i == 0:
            raise ValueError
        if i == 1:
            secede()
        return i

    TRIES.clear()
    futures = [c.submit(end, i, resources={"R": 1}) for i in range(3)]
    futures.append(c.submit(reschedule_until, 2, resources={"R": 1}))
    await distributed.wait(futures)
    assert [future.status for future in futures] == ["error", *["finished"] * 3]
    await until(lambda: a.state.available_resources == {"R": 1})
