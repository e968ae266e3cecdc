"""The pool's threads beside each other, and beside the event loop: held up in the worst places."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from typing import Any

import dask
import distributed
import pytest
from distributed import Status
from distributed.threadpoolexecutor import secede

import fastworker
from fastworker.execution.pool import PullThreadPoolExecutor
from support.in_process import ONE_WORKER, cluster, gate, until


class Numbers:
    """Numbers for the names of threads. A thread that asks for one has found the pool short of a
    thread, and waits until all others have."""

    def __init__(self, askers: int) -> None:
        self.all_here = threading.Barrier(askers)
        self.numbers = itertools.count()

    def __next__(self) -> int:
        self.all_here.wait(30)
        return next(self.numbers)


def test_threads_that_add_threads() -> None:
    """However many find that there is one missing, one is added."""
    pool = PullThreadPoolExecutor(3, thread_name_prefix="several")
    pool._counter = Numbers(askers=8)
    adding = [threading.Thread(target=pool._adjust_thread_count) for _ in range(8)]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join(30)
    assert len(pool._threads) == 3
    pool.shutdown(wait=True, timeout=30)


def test_a_thread_that_is_not_to_be_had() -> None:
    """The pool does not count on a thread that could not be started."""
    pool = PullThreadPoolExecutor(1, thread_name_prefix="none-left")
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(int)
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
    assert pool.submit(int).result(30) == 0
    pool.shutdown(wait=True, timeout=30)


def test_shut_down_while_threads_come_and_go() -> None:
    """A caller that waits for the pool's threads waits for those that there were."""
    pool = PullThreadPoolExecutor(2, thread_name_prefix="closing")
    entered, leave = threading.Barrier(3), threading.Event()

    def hold() -> None:
        entered.wait(30)
        leave.wait(30)

    def hold_and_secede() -> None:
        entered.wait(30)
        leave.wait(30)
        secede()

    pool.submit(hold)
    pool.submit(hold_and_secede)
    entered.wait(30)
    errors: list[BaseException] = []

    def shut_down() -> None:
        try:
            pool.shutdown(wait=True, timeout=30)
        except BaseException as error:
            errors.append(error)

    closing = threading.Thread(target=shut_down)
    closing.start()
    while not pool._shutdown:
        time.sleep(0.001)
    leave.set()
    closing.join(60)
    assert not closing.is_alive() and not errors
    # One has left the pool; none has come in its place
    assert len(pool._threads) == 1
    pool._adjust_thread_count()
    assert len(pool._threads) == 1


class ReadSlowly:
    """Waits in a gate when it is unpickled."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def __reduce__(self) -> Any:
        return read_slowly, (self.gate,)


def read_slowly(gate: Any) -> ReadSlowly:
    gate.pass_through()
    return ReadSlowly(gate)


@cluster(nthreads=ONE_WORKER, worker_kwargs={"memory_limit": "100 MB"})
async def test_heartbeat_while_inputs_are_read(c: Any, s: Any, a: Any) -> None:
    """A task that waits for its inputs to be read from disk is active, and has a start."""
    with gate("read slowly") as reading:
        reading.opened.set()
        x = c.submit(ReadSlowly, reading, key="x")
        await x
        reading.opened.clear()
        reading.entered.clear()
        assert a.data.evict() > 0
        y = c.submit(lambda value: 1, x, key="y")
        await until(reading.entered.is_set)
        assert list(a.active_keys) == ["y"]
        await a.heartbeat()
        assert a.status == Status.running
        reading.opened.set()
        assert await y == 1


@cluster(nthreads=ONE_WORKER)
async def test_heartbeat_when_a_task_is_just_over(c: Any, s: Any, a: Any) -> None:
    """Between two looks of the heartbeat a thread may have let go of the task."""

    class Fleeting(type(a.active_keys)):  # type: ignore[misc]
        def __iter__(self) -> Any:
            yield Key("gone")

    class Key(str):
        """Is there when it is asked for by ``in``, and not when its task is looked up."""

        asked = False

        def __hash__(self) -> int:
            return hash("there" if not self.asked else "gone")

        def __eq__(self, other: object) -> bool:
            there, self.asked = not self.asked, True
            return there and other == "there"

    there = c.submit(int, key="there")
    await there
    a.active_keys = Fleeting()
    await a.heartbeat()
    assert a.status == Status.running


def test_a_task_that_ends_after_the_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    """It has no worker to report to; its thread ends without a log line."""
    failures: list[Any] = []
    threads: list[threading.Thread] = []

    class Listening(distributed.WorkerPlugin):
        def transition(self, *args: Any, **kwargs: Any) -> None:
            pass

    with gate("after all") as held:

        async def play() -> None:
            async with (
                distributed.Scheduler(port=0, dashboard=False) as s,
                fastworker.Worker(s.address, nthreads=1) as a,
                distributed.Client(s.address, asynchronous=True) as c,
            ):
                future = c.submit(held.pass_through, key="task")
                await until(held.entered.is_set)
                threads.extend(a.executors["default"]._threads)
                await a.close(executor_wait=False)
                # The end of the task would have to be dealt with in the event loop
                a.plugins["listening"] = Listening()
                del future

        with dask.config.set({"distributed.admin.tick.limit": "1h"}):
            asyncio.run(play())
        before = threading.excepthook
        threading.excepthook = failures.append
        try:
            with caplog.at_level(logging.ERROR):
                caplog.clear()
                held.opened.set()
                for thread in threads:
                    thread.join(30)
                    assert not thread.is_alive()
        finally:
            threading.excepthook = before
    assert not failures
    assert not caplog.records


@cluster(nthreads=ONE_WORKER)
async def test_a_plugin_that_comes_while_plugins_are_asked(c: Any, s: Any, a: Any) -> None:
    """To look at a plugin may run other code, that adds one."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "transition" and armed:
                armed.clear()
                a.plugins["late"] = distributed.WorkerPlugin()
            return super().__getattribute__(name)

    class Disturbing(distributed.WorkerPlugin, metaclass=Meta):
        pass

    armed: list[int] = []
    a.plugins["disturbing"] = Disturbing()
    armed.append(1)
    assert await c.submit(int, key="x") == 0
    assert "late" in a.plugins
    assert a.status == Status.running
