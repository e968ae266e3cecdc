"""An error inside the core: the worker closes and says what it knew, its tasks run elsewhere."""

from __future__ import annotations

import asyncio

import distributed
import pytest
from dask.utils_test import inc
from distributed.core import Status
from distributed.utils_test import gen_test
from distributed.worker_state_machine import InvalidTransition, SecedeEvent

import fastworker
from fastworker.execution.engine import Engine
from fastworker.monitoring.breakdown import MAX_CHARS, dump
from support.in_process import gate, until


def on_a_thread(worker, held):
    """The thread comes back with a task whose run the core knows nothing of."""
    del worker.state.tasks["x"]
    held.opened.set()


def in_a_transition(worker, held):
    with pytest.raises(InvalidTransition):
        worker.handle_stimulus(
            SecedeEvent(key="memory", compute_duration=1.0, stimulus_id="broken")
        )


def in_an_event(worker, held):
    with pytest.raises(TypeError):
        worker.handle_stimulus("no event")


@pytest.mark.parametrize("fail", [on_a_thread, in_a_transition, in_an_event])
@gen_test()
async def test_another_worker_takes_over(caplog, fail):
    # Not in a cluster whose end is to validate all states
    async with (
        distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
        fastworker.Worker(s.address, nthreads=1) as a,
        fastworker.Worker(s.address, nthreads=1) as b,
        distributed.Client(s.address, asynchronous=True) as c,
    ):
        await run_while_one_breaks(c, s, a, b, caplog, fail)


async def run_while_one_breaks(c, s, a, b, caplog, fail):
    secret = "the value of an argument"
    with gate(fail.__name__) as held:
        x = c.submit(held.pass_through, secret, key="x")
        await until(held.entered.is_set)
        broken, other = (a, b) if "x" in a.state.tasks else (b, a)
        broken.update_data({"memory": 1})
        fail(broken, held)
        await until(lambda: broken.status is Status.closed)
    assert await x == secret
    assert set(s.workers) == {other.address}
    assert s.get_events("worker-fail-hard")
    [record] = [r for r in caplog.records if r.name == "fastworker.state"]
    text = record.getMessage()
    assert "'key': 'x'" in text
    assert "Last transitions:" in text
    assert "cannot be told" not in text
    assert secret not in text


def fails_after_the_core_lost_it(worker, gate):
    """The thread comes back with the failure of a task that the core does not know any more."""
    del worker.state.tasks["x"]
    gate.opened.set()


def cannot_be_passed_on(worker, gate):
    """The core handles messages, and the pool takes no task."""
    pool = worker.executors["default"]
    works, pool._work_queue = pool._work_queue, Full()
    worker._engine = pool.engine = Engine(worker, worker.state, pool)
    pool._work_queue = works
    worker._engine.start(asyncio.get_running_loop())
    worker.state.nthreads = 2


class Full:
    def put(self, item):
        raise RuntimeError("no room")


@pytest.mark.parametrize(
    ("fail", "error", "keys"),
    [(fails_after_the_core_lost_it, "x", ("x",)), (cannot_be_passed_on, "no room", ())],
)
@gen_test()
async def test_which_task_an_error_is_about(fail, error, keys):
    async with (
        distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
        fastworker.Worker(s.address, nthreads=1) as a,
        distributed.Client(s.address, asynchronous=True) as c,
    ):
        told = []
        report = a._report_broken_state
        a._report_broken_state = lambda *about: (told.append(about), report(*about))
        with gate(fail.__name__) as held:
            futures = [c.submit(pass_and_fail, held, key="x")]
            await until(held.entered.is_set)
            fail(a, held)
            futures.append(c.submit(inc, 1, key="y"))
            await until(lambda: told)
            held.opened.set()
            await until(lambda: a.status is Status.closed)
        [(raised, about)] = told
        assert error in str(raised)
        assert tuple(about) == keys


def pass_and_fail(gate):
    gate.pass_through()
    raise ValueError


class Broken:
    """A state of which nothing can be told."""

    def __getattr__(self, name):
        raise KeyError(name)


def test_what_cannot_be_told_is_left_out():
    text = dump(Broken(), ["x"])
    assert text.count("cannot be told, KeyError") == 4
    assert len(text) < 4 * MAX_CHARS
