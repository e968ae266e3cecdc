"""Work that goes on whatever happens: tasks that fail, workers that come and go."""

from __future__ import annotations

import asyncio
import os
import time

import distributed
import pytest
from dask.utils_test import inc
from distributed import Nanny, Reschedule, get_worker
from distributed.utils_test import freeze_batched_send, gen_cluster, wait_for_state

import fastworker
from support.in_process import ONE_WORKER, HeldTransfers, cluster, gate, until


class Odd(Exception):
    def __init__(self, text, number):
        super().__init__(text, number)
        self.number = number


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("keep me here")


def fail_deep(x):
    def deeper():
        raise Odd("this deep", x)

    deeper()


def raise_it(error):
    raise error()


#: The workers that a task was tried on. Workers of this process find it in this module.
TRIES = []


def succeed_at(count):
    TRIES.append(get_worker().address)
    if len(TRIES) < count:
        raise Odd("again", len(TRIES))
    return len(TRIES)


def reschedule_until(count):
    TRIES.append(get_worker().address)
    if len(TRIES) < count:
        raise Reschedule
    return len(TRIES)


# errors in a task are caught, kept and reported


@cluster(nthreads=ONE_WORKER)
async def test_an_error_is_caught_kept_and_reported(c, s, a):
    x = c.submit(fail_deep, 7, key="x")
    with pytest.raises(Odd, match="this deep") as caught:
        await x
    assert caught.value.number == 7
    assert any(entry.name == "deeper" for entry in caught.traceback)
    ts = a.tasks["x"]
    assert ts.state == "error"
    assert "this deep" in ts.exception_text
    assert "deeper" in ts.traceback_text
    assert s.tasks["x"].state == "erred"
    x.release()
    await until(lambda: not a.tasks)
    assert await c.submit(inc, 1) == 2


@pytest.mark.parametrize(
    "error", [ValueError, BaseException, asyncio.CancelledError, RecursionError, Unpicklable]
)
@cluster(nthreads=ONE_WORKER)
async def test_whatever_a_task_raises_the_worker_goes_on(c, s, a, error):
    x = c.submit(raise_it, error, key="x")
    await distributed.wait(x)
    assert x.status == "error"
    assert error.__name__ in a.tasks["x"].exception_text
    assert await c.submit(inc, 1) == 2
    assert a.status.name == "running"


@cluster(nthreads=ONE_WORKER)
async def test_an_error_spreads_to_its_dependents(c, s, a):
    x = c.submit(fail_deep, 1, key="x")
    y = c.submit(inc, x, key="y")
    with pytest.raises(Odd):
        await y
    assert set(a.tasks) == {"x"}


@cluster(nthreads=ONE_WORKER)
async def test_an_error_in_a_coroutine(c, s, a):
    async def fail():
        await asyncio.sleep(0)
        raise Odd("async", 1)

    with pytest.raises(Odd, match="async"):
        await c.submit(fail)


@cluster(nthreads=ONE_WORKER)
async def test_retries(c, s, a):
    TRIES.clear()
    assert await c.submit(succeed_at, 3, retries=5) == 3
    TRIES.clear()
    with pytest.raises(Odd):
        await c.submit(succeed_at, 10, retries=5)
    assert len(TRIES) == 6


@cluster()
async def test_reschedule(c, s, a, b):
    TRIES.clear()
    assert await c.submit(reschedule_until, 3) == 3
    assert a.state.executed_count + b.state.executed_count == 3
    assert set(TRIES) <= {a.address, b.address}


# workers come and go


@cluster(nthreads=ONE_WORKER)
async def test_a_worker_that_comes_takes_its_share(c, s, a):
    with gate("share") as g:
        futures = [c.submit(g.pass_through, i, pure=False) for i in range(4)]
        await until(g.entered.is_set)
        async with fastworker.Worker(s.address, nthreads=1) as b:
            await until(lambda: b.state.executing)
            g.opened.set()
            assert await c.gather(futures) == [0, 1, 2, 3]
            assert b.state.executed_count > 0


@cluster()
async def test_a_worker_that_goes_gracefully_takes_nothing_along(c, s, a, b):
    futures = c.map(inc, range(20), workers=[a.address], allow_other_workers=True)
    await distributed.wait(futures)
    assert len(a.data) == 20
    await a.close_gracefully()
    assert len(b.data) == 20
    assert await c.gather(futures) == list(range(1, 21))
    assert b.state.executed_count == 0


@pytest.mark.parametrize("report", [True, False], ids=["says-so", "without-a-word"])
@cluster()
async def test_a_worker_s_tasks_run_elsewhere_when_it_goes(c, s, a, b, report):
    done = c.map(inc, range(10), workers=[a.address], allow_other_workers=True)
    await distributed.wait(done)
    with gate("goes") as g:
        running = c.submit(
            g.pass_through, 1, key="running", workers=[a.address], allow_other_workers=True
        )
        await until(g.entered.is_set)
        ready = c.submit(inc, 100, key="ready", workers=[a.address], allow_other_workers=True)
        await wait_for_state("ready", "ready", a)
        closing = asyncio.create_task(a.close(report=report, executor_wait=False))
        await until(lambda: a.address not in s.workers)
        g.opened.set()
        assert await c.gather([running, ready]) == [1, 101]
        assert await c.gather(done) == list(range(1, 11))
        assert await closing == "OK"
    assert set(b.get_keys()) == {"running", "ready"} | {future.key for future in done}


@cluster()
async def test_the_holder_of_an_input_goes(c, s, a, b):
    """While its data is asked for: it is computed again and the task that needs it runs."""
    x = c.submit(inc, 1, key="x", workers=[b.address], allow_other_workers=True)
    await x
    async with HeldTransfers(s.address, nthreads=1) as w:
        y = c.submit(inc, x, key="y", workers=[w.address])
        await w.in_gather_dep.wait()
        await b.close()
        w.block_gather_dep.set()
        assert await y == 3


@cluster()
async def test_a_task_that_ends_when_it_was_taken_back(c, s, a, b):
    """The holder of its input goes while the worker and the scheduler cannot hear each other."""
    with gate("taken-back") as g:
        with freeze_batched_send(b.batched_stream):
            x = c.submit(inc, 1, key="x", workers=[a.address])
            y = c.submit(g.pass_through, x, key="y", workers=[b.address])
            await until(g.entered.is_set)
            assert {ws.address for ws in s.tasks["x"].who_has} == {a.address}
            with freeze_batched_send(s.stream_comms[b.address]):
                await s.remove_worker(a.address, stimulus_id="remove-a")
                assert s.tasks["x"].state == "no-worker"
                assert s.tasks["y"].state == "waiting"
                g.opened.set()
                await wait_for_state("y", "memory", b)
        await until(lambda: not b.state.tasks)
    assert s.tasks["x"].state == "no-worker"
    assert s.tasks["y"].state == "waiting"
    assert y.status == "pending"


@cluster()
async def test_workers_come_and_go_while_work_runs(c, s, a, b):
    async def churn():
        for _ in range(6):
            async with fastworker.Worker(s.address, nthreads=2):
                await asyncio.sleep(0.1)

    churning = asyncio.create_task(churn())
    layers = c.map(lambda x: (time.sleep(0.01), x)[1], range(150), pure=False)
    for _ in range(3):
        layers = c.map(lambda x: (time.sleep(0.002), x + 1)[1], layers, pure=False)
    total = c.submit(sum, layers)
    assert await total == sum(range(150)) + 3 * 150
    await churning
    assert set(s.workers) == {a.address, b.address}


@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 1)] * 2,
    Worker=Nanny,
    worker_kwargs={"worker_class": fastworker.Worker},
    timeout=90,
    config={"distributed.scheduler.allowed-failures": 10},
)
async def test_a_killed_worker_s_tasks_run_elsewhere(c, s, a, b):
    """Each nanny starts another one; nothing is lost but time."""

    def work(x, flag):
        try:
            with open(flag, "x"):
                pass
        except FileExistsError:
            return x
        os._exit(1)

    flag = os.path.join(a.local_directory, "killed")
    futures = c.map(inc, range(50), pure=False)
    killers = [c.submit(work, i, f"{flag}-{i % 2}", pure=False) for i in range(10)]
    assert await c.gather(killers) == list(range(10))
    assert await c.gather(futures) == list(range(1, 51))
    assert {os.path.exists(f"{flag}-{i}") for i in range(2)} == {True}


def secede_and_return(x):
    distributed.secede()
    return x


def secede_and_fail(x):
    distributed.secede()
    raise Odd("outside", x)


@cluster(nthreads=[("127.0.0.1", 2)])
async def test_tasks_that_secede_and_are_over_at_once(c, s, a):
    """The thread may be done with the task before the event loop hears that it has left."""
    good = c.map(secede_and_return, range(200), key=[f"good-{i}" for i in range(200)])
    bad = c.map(secede_and_fail, range(20), key=[f"bad-{i}" for i in range(20)], retries=0)
    assert await c.gather(good) == list(range(200))
    await distributed.wait(bad)
    assert {future.status for future in bad} == {"error"}
    assert a.status == distributed.Status.running
    assert not a.state.long_running
    # The pool is as it was
    assert await c.gather(c.map(inc, range(50))) == list(range(1, 51))
