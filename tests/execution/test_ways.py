"""Which way each kind of task takes: a pull thread's, or the event loop's.

A task on the event loop's way has an asyncio task that executes it, as with distributed's own
worker. One on a pull thread's way has none, from the message that brings it to the one that says
how it went.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import dask
import distributed
import pytest
from dask.utils_test import inc
from distributed import SchedulerPlugin, WorkerPlugin
from distributed.worker_state_machine import WorkerState as StockWorkerState

import fastworker
from fastworker.core import WorkerState
from support.in_process import ONE_WORKER, cluster, gate, until


def on_the_loop(worker: distributed.Worker) -> list[str]:
    """The keys that the event loop executes from now on, as they come."""
    keys: list[str] = []
    start = worker._start_async_instruction

    @functools.wraps(start)
    def listen(name, func, /, *args, **kwargs):
        if name.startswith("execute("):
            keys.append(args[0])
        return start(name, func, *args, **kwargs)

    worker._start_async_instruction = listen
    return keys


def pid(x=None):
    return os.getpid()


async def coroutine(x):
    await asyncio.sleep(0)
    return x + 1


class Counter:
    n = 0

    def increment(self):
        self.n += 1
        return self.n


def ask(counter):
    return counter.increment().result()


class Reporter(WorkerPlugin):
    """Knows of each transition, and in which thread it was told of it."""

    name = "reporter"

    def __init__(self):
        self.seen = []

    def transition(self, key, start, finish, **kwargs):
        self.seen.append((key, start, finish, threading.get_ident()))

    def of(self, key):
        return [(start, finish) for k, start, finish, _ in self.seen if k == key]


class Bystander(WorkerPlugin):
    """Does not want to know of transitions."""

    name = "bystander"

    def setup(self, worker):
        self.worker = worker


class OwnState(WorkerState):
    """A state machine that may have something of its own about it."""


class OwnTransition(WorkerState):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def _transition(self, ts, finish, *args, **kwargs):
        self.seen.append((ts.key, finish, threading.get_ident()))
        if isinstance(finish, tuple):
            self.seen[-1] = (ts.key, finish[0], threading.get_ident())
        return super()._transition(ts, finish, *args, **kwargs)


class OwnMapping(dict):
    def __init__(self):
        self.threads = set()

    def __getitem__(self, key):
        self.threads.add(threading.get_ident())
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        self.threads.add(threading.get_ident())
        super().__setitem__(key, value)


class OwnExecute(fastworker.Worker):
    told = 0

    def execute(self, key, *, stimulus_id=None):
        self.told += 1
        return super().execute(key, stimulus_id=stimulus_id)


class OwnStimuli(fastworker.Worker):
    told = 0

    def handle_stimulus(self, *stims):
        self.told += len(stims)
        super().handle_stimulus(*stims)


# -------------------------------------------------------------------------- pull threads


#: Events of the next test: no task can take them along.
RAN: list[threading.Event] = []


def note(i):
    RAN[i].set()
    return 1 // i


@cluster(nthreads=ONE_WORKER)
async def test_plain_tasks_do_without_the_event_loop(c, s, a):
    """They follow one another while it stands still."""
    RAN[:] = [threading.Event() for _ in range(4)]
    keys = on_the_loop(a)
    with gate("plain") as g:
        held = c.submit(g.pass_through, "held", key="held")
        await until(g.entered.is_set)
        # Prefixes of their own: the scheduler would hold back a part of a larger group
        futures = [c.submit(note, i, key=key, priority=-i) for i, key in enumerate("wxyz")]
        await until(lambda: len(a.state.ready) == 4)
        g.opened.set()
        # No await: this is the thread of the event loop
        assert RAN[3].wait(20)
    assert await c.gather([held, *futures[1:]]) == ["held", 1, 0, 0]
    with pytest.raises(ZeroDivisionError):
        await futures[0]
    assert keys == []


@pytest.mark.parametrize(
    "run",
    [
        lambda c: c.submit(inc, 1),
        lambda c: c.submit(pid, pure=False),
        lambda c: c.submit(inc, 1, workers="127.0.0.1", priority=5),
        lambda c: c.submit(inc, 1, resources={"R": 1}),
        lambda c: c.submit(functools.partial(inc, 1)),
        lambda c: c.submit(lambda: [inc(i) for i in range(3)]),
        lambda c: c.submit(inc, c.submit(inc, 1)),
        lambda c: c.compute(dask.delayed(inc)(dask.delayed(inc)(1))),
        lambda c: c.submit(str.upper, "x"),
        lambda c: c.submit(Counter),
    ],
    ids=[
        *("function", "impure", "restricted", "resources", "partial", "closure", "input"),
        *("delayed", "method", "class"),
    ],
)
@cluster(nthreads=ONE_WORKER, worker_kwargs={"resources": {"R": 1}})
async def test_plain(c, s, a, run):
    keys = on_the_loop(a)
    await run(c)
    assert a.state.executed_count >= 1
    assert keys == []


@cluster(nthreads=ONE_WORKER)
async def test_tasks_that_fail_are_plain_too(c, s, a):
    keys = on_the_loop(a)
    with pytest.raises(ZeroDivisionError):
        await c.submit(lambda: 1 / 0)
    assert keys == []


@cluster(nthreads=ONE_WORKER)
async def test_the_default_executor_by_its_name(c, s, a):
    keys = on_the_loop(a)
    with dask.annotate(executor="default"):
        await c.submit(inc, 1)
    assert keys == []


@cluster(nthreads=ONE_WORKER)
async def test_a_plugin_without_a_transition_hook_changes_nothing(c, s, a):
    keys = on_the_loop(a)
    await c.register_plugin(Bystander())
    assert await c.submit(inc, 1) == 2
    assert "bystander" in a.plugins
    assert keys == []


@cluster(nthreads=ONE_WORKER)
async def test_a_plugin_of_the_scheduler_s_changes_nothing(c, s, a):
    class Plugin(SchedulerPlugin):
        def transition(self, key, start, finish, *args, **kwargs):
            pass

    keys = on_the_loop(a)
    s.add_plugin(Plugin(), name="scheduler-s")
    assert await c.submit(inc, 1) == 2
    assert keys == []


# -------------------------------------------------------------------------- the event loop


@cluster(nthreads=ONE_WORKER)
async def test_async_tasks(c, s, a):
    keys = on_the_loop(a)
    assert await c.submit(coroutine, 1, key="x") == 2
    assert await c.submit(functools.partial(coroutine, 2), key="y") == 3
    assert keys == ["x", "y"]


@cluster(nthreads=ONE_WORKER)
async def test_named_thread_pools(c, s, a):
    keys = on_the_loop(a)
    with ThreadPoolExecutor(1, thread_name_prefix="named") as pool:
        a.executors["named"] = pool
        with dask.annotate(executor="named"):
            x = c.submit(lambda: threading.current_thread().name, key="x")
        assert (await x).startswith("named")
        assert keys == ["x"]


@cluster(nthreads=ONE_WORKER)
async def test_the_pool_for_offloading(c, s, a):
    keys = on_the_loop(a)
    with dask.annotate(executor="offload"):
        x = c.submit(lambda: threading.current_thread().name, key="x")
    assert "Offload" in await x
    assert keys == ["x"]


@cluster(nthreads=ONE_WORKER)
async def test_process_pools(c, s, a):
    keys = on_the_loop(a)
    with ProcessPoolExecutor(1) as pool:
        a.executors["processes"] = pool
        with dask.annotate(executor="processes"):
            x = c.submit(pid, key="x")
        assert await x != os.getpid()
        assert keys == ["x"]


@cluster(nthreads=ONE_WORKER)
async def test_a_default_executor_put_in_later(c, s, a):
    keys = on_the_loop(a)
    await c.submit(inc, 1, key="before")
    with ThreadPoolExecutor(1, thread_name_prefix="later") as pool:
        ours, a.executors["default"] = a.executors["default"], pool
        name = await c.submit(lambda: threading.current_thread().name, key="after")
        a.executors["default"] = ours
    assert name.startswith("later")
    await c.submit(inc, 1, key="again")
    assert keys == ["after"]


@cluster(nthreads=ONE_WORKER)
async def test_actors_and_tasks_that_use_them(c, s, a):
    keys = on_the_loop(a)
    counter = c.submit(Counter, actor=True, key="counter")
    await counter
    assert await c.submit(ask, counter, key="ask") == 1
    assert await c.submit(inc, 1, key="plain") == 2
    assert keys == ["counter", "ask"]


@cluster(nthreads=ONE_WORKER)
async def test_a_plugin_with_a_transition_hook(c, s, a):
    """It is told of every transition of every task, in the thread of the event loop."""
    keys = on_the_loop(a)
    plugin = Reporter()
    await a.plugin_add(plugin)
    assert await c.submit(inc, 1, key="x") == 2
    assert keys == ["x"]
    assert plugin.of("x")[-1] == ("executing", "memory")
    assert {thread for *_, thread in plugin.seen} == {threading.get_ident()}


@cluster(nthreads=ONE_WORKER)
async def test_a_transition_hook_on_an_instance(c, s, a):
    keys = on_the_loop(a)
    plugin = Bystander()
    seen = []
    plugin.transition = lambda key, start, finish, **kwargs: seen.append((key, finish))
    await a.plugin_add(plugin)
    assert await c.submit(inc, 1, key="x") == 2
    assert keys == ["x"]
    assert ("x", "memory") in seen


@pytest.mark.parametrize("fails", [False, True])
@cluster(nthreads=ONE_WORKER)
async def test_a_plugin_added_while_a_task_runs(c, s, a, fails):
    """It hears in its own thread of the end of a task that a pull thread runs; so it does of
    those that come next. Without it, all is as before."""
    keys = on_the_loop(a)
    plugin = Reporter()

    def end(x):
        return x // (0 if fails else 1)

    with gate("added") as g:

        def run():
            return end(g.pass_through(1))

        x = c.submit(run, key="x")
        await until(g.entered.is_set)
        y = c.submit(inc, 1, key="y")  # ready before the plugin comes
        await until(lambda: "y" in a.state.tasks)
        await a.plugin_add(plugin)
        g.opened.set()
        await distributed.wait([x, y])
    assert keys == ["y"]
    assert plugin.of("x") == [("executing", "error" if fails else "memory")]
    assert plugin.of("y")[-1] == ("executing", "memory")
    assert {thread for *_, thread in plugin.seen} == {threading.get_ident()}

    await a.plugin_remove("reporter")
    del plugin.seen[:]
    assert await c.submit(inc, 2, key="z") == 3
    assert keys == ["y"]
    assert plugin.seen == []


@pytest.mark.parametrize("Worker", [OwnExecute, OwnStimuli])
@cluster(nthreads=[])
async def test_subclasses_with_their_own_way(c, s, Worker):
    async with Worker(s.address, nthreads=1) as a:
        keys = on_the_loop(a)
        assert await c.submit(inc, 1, key="x") == 2
        assert keys == ["x"]
        assert a.told


@cluster(nthreads=[])
async def test_execute_on_an_instance(c, s):
    async with fastworker.Worker(s.address, nthreads=1) as a:
        keys = on_the_loop(a)
        executed = []
        execute = a.execute

        def listen(key, **kwargs):
            executed.append(key)
            return execute(key, **kwargs)

        a.execute = listen
        assert await c.submit(inc, 1, key="x") == 2
        assert keys == executed == ["x"]


@pytest.mark.parametrize("State", [StockWorkerState, OwnState])
@cluster(nthreads=[])
async def test_custom_state_machines(c, s, State):
    async with fastworker.Worker(s.address, nthreads=1, WorkerStateClass=State) as a:
        keys = on_the_loop(a)
        assert await c.submit(inc, 1, key="x") == 2
        assert type(a.state) is State
        assert keys == ["x"]


@cluster(nthreads=[])
async def test_a_state_machine_with_transitions_of_its_own(c, s):
    """They are carried out in the event loop's thread alone."""
    async with fastworker.Worker(s.address, nthreads=1, WorkerStateClass=OwnTransition) as a:
        assert await c.submit(inc, 1, key="x") == 2
        assert ("x", "memory") in {(key, finish) for key, finish, _ in a.state.seen}
        assert {thread for *_, thread in a.state.seen} == {threading.get_ident()}


@pytest.mark.parametrize("alone", [True, False], ids=["executor", "executors"])
@cluster(nthreads=[])
async def test_custom_executors(c, s, alone):
    with ThreadPoolExecutor(1, thread_name_prefix="custom") as pool:
        executor = pool if alone else {"default": pool}
        async with fastworker.Worker(s.address, nthreads=1, executor=executor) as a:
            keys = on_the_loop(a)
            x = c.submit(lambda: threading.current_thread().name, key="x")
            assert (await x).startswith("custom")
            assert keys == ["x"]


@cluster(nthreads=[])
async def test_a_custom_executor_beside_ours(c, s):
    with ThreadPoolExecutor(1, thread_name_prefix="custom") as pool:
        async with fastworker.Worker(s.address, nthreads=1, executor={"mine": pool}) as a:
            keys = on_the_loop(a)
            with dask.annotate(executor="mine"):
                x = c.submit(lambda: threading.current_thread().name, key="x")
            y = c.submit(lambda: threading.current_thread().name, key="y")
            assert (await x).startswith("custom")
            assert (await y).startswith("Dask-Default-Threads")
            assert keys == ["x"]


@pytest.mark.parametrize(
    "data, plain", [(None, True), (dict, True), (OwnMapping, False)], ids=["default", "dict", "own"]
)
@cluster(nthreads=[])
async def test_custom_mappings(c, s, data, plain):
    """A mapping of the user's hears from the thread of the event loop alone."""
    async with fastworker.Worker(s.address, nthreads=1, data=data) as a:
        keys = on_the_loop(a)
        x = c.submit(inc, 1, key="x")
        y = c.submit(inc, x, key="y")
        assert await y == 3
        assert keys == ([] if plain else ["x", "y"])
        if not plain:
            assert a.data.threads == {threading.get_ident()}
