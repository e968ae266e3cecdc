"""A worker that stays paused hands back what it has not begun, and takes part again later.

The scheduler and the workers validate themselves after every event, and once more in the end.
"""

from __future__ import annotations

import logging
from unittest import mock

import dask
import pytest
from dask.utils_test import inc
from distributed import Worker, WorkerPlugin, get_worker, secede
from distributed.core import Status
from distributed.utils_test import captured_logger, gen_cluster
from distributed.worker_state_machine import ComputeTaskEvent, FreeKeysEvent

import fastworker
from fastworker.execution.stock import StockEngine
from support.in_process import HeldTransfers, cluster, gate, heard, until

SOON = {
    "fastworker.worker.hand-back-after": "20ms",
    "distributed.worker.memory.pause": False,  # or it would take itself up again
    "distributed.scheduler.work-stealing": False,
}
NEVER = {**SOON, "fastworker.worker.hand-back-after": None}

#: Two workers with a thread each; ``a`` has the resource R.
PAIR = [("127.0.0.1", 1, {"resources": {"R": 1}}), ("127.0.0.1", 1)]

pair = {"nthreads": PAIR, "config": SOON}


def where():
    return get_worker().address


def at(worker):
    """Options of `submit`: there if it can be, elsewhere if need be."""
    return {"workers": [worker.address], "allow_other_workers": True, "pure": False}


async def rounds(worker, n=3):
    """Until the worker has looked ``n`` more times for what there is to hand back."""
    for _ in range(n):
        timer = worker._hand_back.timer
        await until(lambda timer=timer: worker._hand_back.timer is not timer)


async def settled(s, a):
    """Until the scheduler's answers have come."""
    await until(lambda: not s.workers[a.address].processing and not a.state.tasks)


@cluster(**pair)
async def test_what_waits_for_a_thread_goes_to_others(c, s, a, b):
    with gate("held") as g, captured_logger("fastworker.memory", level=logging.WARNING) as log:
        held = c.submit(g.pass_through, "held", key="held", **at(a))
        await until(g.entered.is_set)
        futures = [c.submit(where, key=f"where-{i}", retries=2, **at(a)) for i in range(5)]
        futures.append(c.submit(where, key="last", **at(a)))
        await until(lambda: len(a.state.ready) == 6)
        a.status = Status.paused
        assert await c.gather(futures) == [b.address] * 6
        assert a.state.tasks["held"].state == "executing"
        assert [s.tasks[f"where-{i}"].retries for i in range(5)] == [2] * 5
        assert not any(s.tasks[f.key].suspicious for f in futures)
        g.opened.set()
        assert await held == "held"
    (line,) = log.getvalue().splitlines()
    assert line == (
        "Worker has been paused for 0.02 s or more. Handing back to the scheduler what it has not "
        "begun: 5 where, 1 last"
    )
    assert list(a.state.tasks) == ["held"]
    a.status = Status.running
    assert await c.submit(where, workers=[a.address], pure=False) == a.address


@cluster(
    nthreads=PAIR,
    config={
        **SOON,
        "distributed.worker.memory.pause": 0.8,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.monitor-interval": "5ms",
    },
    worker_kwargs={"memory_limit": "10 GB"},
)
async def test_as_the_memory_monitor_finds(c, s, a, b):
    memory = {a: 0, b: 0}
    for worker in memory:
        worker.monitor.get_process_memory = lambda worker=worker: memory[worker]
    with gate("measured") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, **at(a))
        await until(lambda: len(a.state.ready) == 1)
        memory[a] = 9_000_000_000
        assert await future == b.address
        assert a.status == Status.paused
        memory[a] = 0
        await until(lambda: s.workers[a.address].status == Status.running)
        g.opened.set()
        await held
    assert await c.submit(where, **at(a)) == a.address


@cluster(**pair)
async def test_what_waits_for_resources_comes_back_to_the_only_worker_that_has_them(c, s, a, b):
    with gate("resources") as g:
        held = c.submit(g.pass_through, key="held", resources={"R": 1})
        await until(g.entered.is_set)
        future = c.submit(where, resources={"R": 1}, pure=False)
        await until(lambda: len(a.state.constrained) == 1)
        reschedules = heard(s, "reschedule")
        a.status = Status.paused
        await until(lambda: s.tasks[future.key].state == "no-worker")
        g.opened.set()
        await held
    await rounds(a)
    assert [message["key"] for message in reschedules] == [future.key]
    assert future.key not in a.state.tasks
    a.status = Status.running
    assert await future == a.address


@cluster(**pair)
async def test_nothing_goes_back_and_forth_while_all_are_paused(c, s, a, b):
    with gate("all") as g:
        held = [c.submit(g.pass_through, key=("held", i), **at(w)) for i, w in enumerate((a, b))]
        await until(lambda: len(a.state.executing) == len(b.state.executing) == 1)
        loose = [c.submit(inc, i, key=("loose", i)) for i in range(4)]
        fixed = c.submit(where, workers=[a.address], pure=False)
        roots = c.map(inc, range(20), key="root")
        await until(lambda: len(a.state.ready) + len(b.state.ready) >= 5)
        reschedules = heard(s, "reschedule")
        a.status = b.status = Status.paused
        g.opened.set()
        await c.gather(held)
        await settled_but_for(held, a, b)
        await rounds(a)
        await rounds(b)
        sent = [message["key"] for message in reschedules]
        assert len(sent) == len(set(sent))
        assert {f.key for f in (*loose, fixed)} <= set(sent)
        assert {s.tasks[f.key].state for f in (*loose, fixed)} == {"no-worker"}
        assert {s.tasks[f.key].state for f in roots} <= {"queued", "no-worker"}
        b.status = Status.running
        assert await c.gather(loose) == [1, 2, 3, 4]
        assert await c.gather(roots) == list(range(1, 21))
        assert s.tasks[fixed.key].state == "no-worker"
        a.status = Status.running
        assert await fixed == a.address


async def settled_but_for(held, *workers):
    keys = {future.key for future in held}
    await until(lambda: all(set(worker.state.tasks) <= keys for worker in workers))


@cluster(nthreads=[("127.0.0.1", 1)], config=SOON)
async def test_inputs_on_their_way_are_not_kept(c, s, b):
    async with HeldTransfers(s.address, nthreads=1) as a:
        x = c.submit(inc, 1, key="x", workers=[b.address])
        await x
        future = c.submit(inc, x, key="y", **at(a))
        await a.in_gather_dep.wait()
        assert a.state.tasks["y"].state == "waiting"
        a.status = Status.paused
        assert await future == 3
        assert "y" in b.data
        assert a.state.tasks["x"].state == "cancelled"
        a.block_gather_dep.set()
        await until(lambda: not a.state.tasks)
        a.status = Status.running
        assert await c.submit(inc, x, key="z", workers=[a.address]) == 3


@cluster(nthreads=[("127.0.0.1", 1)], config=SOON)
async def test_a_task_that_comes_back_finds_its_inputs_still_on_their_way(c, s, b):
    async with HeldTransfers(s.address, nthreads=1) as a:
        x = c.submit(inc, 1, key="x", workers=[b.address])
        future = c.submit(inc, x, key="y", workers=[a.address])
        await a.in_gather_dep.wait()
        a.status = Status.paused
        await until(lambda: s.tasks["y"].state == "no-worker" and "y" not in a.state.tasks)
        a.status = Status.running
        await until(lambda: "y" in a.state.tasks)
        assert a.state.tasks["x"].state == "flight"
        a.block_gather_dep.set()
        assert await future == 3


def long_running(g):
    secede()
    return g.pass_through("long")


class Counter:
    n = 0

    def increment(self):
        self.n += 1
        return self.n


@cluster(**pair)
async def test_what_runs_and_actors_and_what_was_added_by_hand_stay(c, s, a, b):
    with gate("long") as long, gate("short") as short:
        seceded = c.submit(long_running, long, key="long", **at(a))
        await until(lambda: a.state.long_running)
        running = c.submit(short.pass_through, "short", key="short", **at(a))
        await until(short.entered.is_set)
        counter = c.submit(Counter, actor=True, key="actor", **at(a))
        a.add_task("input", priority=0, func=inc, args=(1,))
        a.add_task("by-hand", priority=0, func=inc, args=(1,))
        late = c.submit(where, key="late", **at(a))
        await until(lambda: len(a.state.ready) == 4)
        a.status = Status.paused
        assert await late == b.address
        await rounds(a)
        assert {key: ts.state for key, ts in a.state.tasks.items()} == {
            "long": "long-running",
            "short": "executing",
            "actor": "ready",
            "input": "ready",
            "by-hand": "ready",
        }
        long.opened.set()
        short.opened.set()
        assert await c.gather([seceded, running]) == ["long", "short"]
        a.status = Status.running
        assert await (await counter).increment() == 1
        assert s.workers[a.address].actors == {s.tasks["actor"]}


@cluster(nthreads=PAIR, config=SOON, worker_kwargs={"data": dict})
async def test_with_a_mapping_of_the_users(c, s, a, b):
    await by_one_held(c, a, b)


@gen_cluster(client=True, nthreads=PAIR, config=SOON, Worker=fastworker.Worker)
async def test_with_a_plugin_that_watches_transitions(c, s, a, b):
    seen = []

    class Watch(WorkerPlugin):
        name = "watch"

        def transition(self, key, start, finish, **kwargs):
            seen.append((key, start, finish))

    await a.plugin_add(Watch())
    await by_one_held(c, a, b)
    assert ("stuck", "ready", "released") in seen


class OtherState(fastworker.core.WorkerState):
    """A state machine of the user's: the worker goes the way of stock."""


@cluster(nthreads=PAIR, config=SOON, worker_kwargs={"WorkerStateClass": OtherState})
async def test_without_the_engine(c, s, a, b):
    assert isinstance(a._engine, StockEngine)
    a.add_task("by-hand", priority=100, func=inc, args=(1,))
    await until(lambda: "by-hand" not in a.state.tasks)
    await by_one_held(c, a, b, by_hand=True)


async def by_one_held(c, a, b, by_hand=False):
    with gate("one") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, key="stuck", **at(a))
        if by_hand:
            a.add_task("by-hand", priority=100, func=inc, args=(1,))
        await until(lambda: len(a.state.ready) == 1 + by_hand)
        a.status = Status.paused
        assert await future == b.address
        assert ("by-hand" in a.state.tasks) == by_hand
        g.opened.set()
        await held


# Races


@cluster(**pair)
async def test_unpaused_before_the_scheduler_answers(c, s, a, b):
    """What was handed back does not begin here, unless the scheduler sends it again."""
    with gate("answer") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        futures = [c.submit(where, **at(a)) for _ in range(5)]
        await until(lambda: len(a.state.ready) == 5)
        runs = [a.state.tasks[f.key].run_id for f in futures]
        a.status = Status.paused
        a._hand_back.now()
        a.status = Status.running
        assert not a.state.ready
        g.opened.set()
        await held
    assert set(await c.gather(futures)) <= {a.address, b.address}
    assert all(s.tasks[f.key].run_id > run for f, run in zip(futures, runs, strict=True))


@cluster(**{**pair, "config": NEVER})
async def test_taken_away_before_the_scheduler_hears(c, s, a, b):
    """A message about a task that is elsewhere by now changes nothing there."""
    with gate("away") as g, gate("there") as there:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(there.pass_through, "done", key="moved", **at(a))
        await until(lambda: len(a.state.ready) == 1)
        reschedules = heard(s, "reschedule")
        a.status = Status.paused
        await until(lambda: s.workers[a.address].status == Status.paused)
        # In one go at the scheduler, before it reads what the worker sends now
        a._hand_back.after = 1000
        a._hand_back.now()
        s._reschedule("moved", stimulus_id="test-away")
        (ws,) = (s.tasks["moved"].processing_on,)
        assert ws.address == b.address
        run = s.tasks["moved"].run_id
        await until(lambda: len(reschedules) == 1)
        assert s.tasks["moved"].processing_on is ws
        assert s.tasks["moved"].run_id == run
        there.opened.set()
        g.opened.set()
        assert await c.gather([held, future]) == [None, "done"]
    assert "moved" not in a.state.tasks


@cluster(nthreads=PAIR, config={**NEVER, "distributed.scheduler.work-stealing": True})
async def test_stolen_while_it_is_handed_back(c, s, a, b):
    """The answer to the scheduler's request is that there is no such task; the steal is off."""
    await s.extensions["stealing"].stop()
    with gate("stolen") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, key="wanted", **at(a))
        await until(lambda: len(a.state.ready) == 1)
        stealing = s.extensions["stealing"]
        ts = s.tasks["wanted"]
        stealing.move_task_request(ts, s.workers[a.address], s.workers[b.address])
        a.status = Status.paused
        a._hand_back.after = 1000
        a._hand_back.now()
        answers = heard(s, "steal-response")
        assert await future == b.address
        await until(lambda: answers)
        assert [answer["state"] for answer in answers] == [None]
        assert not stealing.in_flight
        g.opened.set()
        await held


@cluster(**{**pair, "config": NEVER})
async def test_cancelled_before_the_scheduler_hears(c, s, a, b):
    with gate("cancelled") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, key="gone", **at(a))
        await until(lambda: len(a.state.ready) == 1)
        reschedules = heard(s, "reschedule")
        a.status = Status.paused
        a._hand_back.after = 1000
        s.client_releases_keys(["gone"], client=c.id)
        a._hand_back.now()
        await until(lambda: reschedules)
        g.opened.set()
        await held
        assert list(a.state.tasks) == ["held"]
        del future


@cluster(**{**pair, "config": NEVER})
async def test_what_is_sent_to_a_paused_worker_all_the_same(c, s, a, b):
    """The scheduler learns of a pause a moment late, and then completes a steal after it."""
    a.status = Status.paused
    ws = s.workers[a.address]
    await until(lambda: ws not in s.running)
    ws.status = Status.running
    s.running.add(ws)
    future = c.submit(where, **at(a))
    await until(lambda: a.state.ready)
    ws.status = Status.paused
    s.running.discard(ws)
    s.idle.pop(ws.address, None)
    s.idle_task_count.discard(ws)
    a._hand_back.after = 1000
    a._hand_back.now()
    assert await future == b.address
    await settled(s, a)


@cluster(**{**pair, "config": NEVER})
async def test_inputs_of_what_was_added_by_hand_stay(c, s, a, b):
    """As when the holder of an input is lost, and the scheduler has it made again here."""
    x = c.submit(inc, 1, key="x", workers=[b.address])
    await x
    a.status = Status.paused
    a.add_task("y", priority=0, who_has={"x": [b.address]}, func=inc, args=("x",))
    assert a.state.tasks["x"].state == "fetch"
    a.handle_stimulus(ComputeTaskEvent.dummy("x", stimulus_id="again"))
    assert a.state.tasks["x"].state == "ready"
    reschedules = heard(s, "reschedule")
    a._hand_back.after = 1000
    a._hand_back.now()
    assert a.state.tasks["x"].state == "ready"
    assert a.state.tasks["y"].state == "waiting"
    a.handle_stimulus(FreeKeysEvent(keys=["y", "x"], stimulus_id="end"))
    await c.run(lambda: None)
    assert not a.state.tasks
    assert not reschedules


@cluster(**pair)
async def test_ours_in_the_place_of_stocks(c, s, a, b):
    """As users do who patch it in, and as distributed's own tests are run with ours."""
    with mock.patch("distributed.Worker", fastworker.Worker):
        await by_one_held(c, a, b)


# When


@cluster(**{**pair, "config": {**SOON, "fastworker.worker.hand-back-after": "1 hour"}})
async def test_a_short_pause_changes_nothing(c, s, a, b):
    with gate("short") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, **at(a))
        await until(lambda: len(a.state.ready) == 1)
        a.status = Status.paused
        timer = a._hand_back.timer
        assert 3500 < timer.when() - a.loop.asyncio_loop.time() <= 3600
        a.status = Status.paused
        assert a._hand_back.timer is timer
        a.status = Status.running
        assert timer.cancelled()
        assert a._hand_back.timer is None
        g.opened.set()
        await held
        assert await future == a.address
    a.status = Status.paused
    timer = a._hand_back.timer
    await a.close()
    assert timer.cancelled()


@cluster(**{**pair, "config": NEVER})
async def test_it_can_be_switched_off(c, s, a, b):
    a.status = Status.paused
    assert a._hand_back.timer is None


def test_the_default_outlasts_what_spilling_mends():
    assert fastworker.config.worker_setting("hand-back-after") == 5


@pytest.mark.parametrize("value", ["soon", 0, -1, True])
def test_a_bad_value(value):
    with (
        dask.config.set({"fastworker.worker.hand-back-after": value}),
        pytest.raises(ValueError, match=r"fastworker\.worker\.hand-back-after must be a time"),
    ):
        fastworker.Worker("tcp://127.0.0.1:1")


@gen_cluster(client=True, nthreads=PAIR, config=SOON, Worker=Worker)
async def test_stock_keeps_them(c, s, a, b):
    """If this fails, stock has learned it, and ours should do as stock does."""
    with gate("stock") as g:
        held = c.submit(g.pass_through, key="held", **at(a))
        await until(g.entered.is_set)
        future = c.submit(where, **at(a))
        await until(lambda: len(a.state.ready) == 1)
        a.status = Status.paused
        await until(lambda: s.workers[a.address].status == Status.paused)
        g.opened.set()
        await held
        await c.run(lambda: None)
        assert a.state.tasks[future.key].state == "ready"
        a.status = Status.running
        assert await future == a.address
