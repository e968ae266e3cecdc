"""What a task sees and may do in a pull thread is what it sees and may do in a thread of stock's.

Every test runs with distributed's own worker too, which says what is right.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextvars import ContextVar

import distributed
import pytest
from dask.utils_test import inc
from distributed import get_client, get_worker, rejoin, secede, worker_client
from distributed.metrics import time
from distributed.utils import thread_state
from distributed.utils_test import wait_for_state
from distributed.worker_state_machine import ExecuteSuccessEvent

from support.beside_stock import WORKERS, as_stock
from support.in_process import cluster, gate, until


def key_of_task():
    """For functions that are pickled with what they refer to, which `thread_state` cannot be."""
    return thread_state.key


def state_of_task():
    return get_worker().state.tasks[thread_state.key].state


def find_left():
    """What a task has left behind in this thread."""
    held = {"key", "start_time", "execution_state"} & vars(thread_state).keys()
    try:
        worker = get_worker()
    except ValueError:
        worker = None
    return held, worker, threading.get_ident()


# --------------------------------------------------------------------- where a task finds itself


def surroundings():
    return {
        "worker": get_worker().address,
        "key": thread_state.key,
        "worker's": thread_state.execution_state["worker"] is get_worker(),
        "started": isinstance(thread_state.start_time, float),
        "actor": getattr(thread_state, "actor", None),
        "active": get_worker().active_threads.get(threading.get_ident()),
        "is active": thread_state.key in get_worker().active_keys,
        "daemon": threading.current_thread().daemon,
        # Where distributed is older, without the worker's name
        "name": re.sub(r"^0-|\d+-\d+$", "", threading.current_thread().name),
        "state": get_worker().state.tasks[thread_state.key].state,
        "client": get_client().scheduler.address,
    }


@as_stock()
async def test_where_a_task_finds_itself(c, s, a):
    assert await c.submit(surroundings, key="x") == {
        "worker": a.address,
        "key": "x",
        "worker's": True,
        "started": True,
        "actor": None,
        "active": "x",
        "is active": True,
        "daemon": True,
        "name": "Dask-Default-Threads-",
        "state": "executing",
        "client": s.address,
    }


@pytest.mark.parametrize("fails", [False, True])
@as_stock()
async def test_nothing_of_a_task_is_left_in_its_thread(c, s, a, *, fails):
    def task():
        _ = 1 // (not fails)
        return threading.get_ident()

    await distributed.wait(c.submit(task))

    # The same thread: there is but one
    held, worker, ident = await asyncio.wrap_future(a.executors["default"].submit(find_left))
    assert held == set()
    assert worker is None
    assert a.active_threads == {}
    assert not a.active_keys
    if not fails:
        assert await c.submit(task, pure=False) == ident


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def swap(value):
    before = VARIABLE.get()
    VARIABLE.set(value)
    return before


@as_stock()
async def test_context_variables_do_not_leak(c, s, a):
    futures = [c.submit(swap, i, key=key) for i, key in enumerate("uvwxyz")]
    assert await c.gather(futures) == ["unset"] * 6
    with pytest.raises(ZeroDivisionError):
        await c.submit(lambda: swap("before an error") and 1 / 0)
    assert await c.submit(swap, "after an error") == "unset"
    look = a.executors["default"].submit(VARIABLE.get)
    assert await asyncio.wrap_future(look) == "unset"


@pytest.mark.parametrize("kind", WORKERS)
@cluster(nthreads=[])
async def test_context_variables_of_the_caller_that_started_the_worker(c, s, kind):
    token = VARIABLE.set("of the worker")
    try:
        async with WORKERS[kind](s.address, nthreads=1):
            assert await c.submit(swap, "of a task") == "of the worker"
            assert await c.submit(swap, "of another") == "of the worker"
    finally:
        VARIABLE.reset(token)


# --------------------------------------------------------------------- secede, rejoin, clients


def leave(g, back):
    """Leave the pool, wait at the gate, and maybe come back."""
    (secede if back else distributed.secede)()
    value = g.pass_through(thread_state.key)
    if back:
        rejoin()
    return value, threading.get_ident()


@pytest.mark.parametrize("back", [False, True], ids=["secede", "rejoin"])
@as_stock()
async def test_a_task_that_secedes_makes_room(c, s, a, *, back):
    pool = a.executors["default"]
    with gate("secede") as g:
        x = c.submit(leave, g, back, key="x")
        await wait_for_state("x", "long-running", a)
        assert len(pool._threads) == 1
        # In another thread, while x holds its own
        others = [c.submit(threading.get_ident, key=f"other-{i}") for i in range(3)]
        (other,) = set(await c.gather(others))
        assert a.state.tasks["x"].state == "long-running"
        assert s.tasks["x"] in s.workers[a.address].long_running
        g.opened.set()
        value, ident = await x
    assert value == "x"
    assert ident != other
    assert a.active_threads == {}
    # The thread that came back has taken the place of the other one, which is gone
    stays = {thread.ident for thread in pool._threads}
    assert stays == {ident if back else other}
    assert await c.submit(threading.get_ident, key="last") in stays
    goes = other if back else ident
    await until(lambda: goes not in {thread.ident for thread in threading.enumerate()})


@as_stock(nthreads=[("127.0.0.1", 2)])
async def test_many_tasks_secede_and_rejoin(c, s, a):
    """There are never more of them between rejoin and their end than the worker has threads."""

    def task(i):
        secede()
        rejoin()
        return i

    futures = c.map(task, range(40), pure=False)
    assert await c.gather(futures) == list(range(40))
    assert len(a.executors["default"]._threads) == 2
    assert await c.gather(c.map(inc, range(20))) == list(range(1, 21))


@as_stock()
async def test_an_error_after_secede(c, s, a):
    def task():
        secede()
        raise KeyError("after")

    with pytest.raises(KeyError, match="after"):
        await c.submit(task)
    assert await c.submit(inc, 1) == 2


@as_stock()
async def test_secede_twice(c, s, a):
    def task():
        secede()
        with pytest.raises(KeyError):
            secede()
        return key_of_task()

    assert await c.submit(task, key="x") == "x"


def fibonacci(n):
    if n < 2:
        return n
    with worker_client() as client:
        x, y = client.submit(fibonacci, n - 1), client.submit(fibonacci, n - 2)
        return sum(client.gather([x, y]))


def count_down(n):
    if n:
        client = get_client()
        future = client.submit(count_down, n - 1)
        secede()
        return [n, *future.result()]
    return [0]


@as_stock()
async def test_tasks_that_submit_tasks(c, s, a):
    """One thread is enough for all of them, since those that wait are out of its way."""
    assert await c.submit(fibonacci, 5) == 5
    assert await c.submit(count_down, 4) == [4, 3, 2, 1, 0]
    assert len(a.executors["default"]._threads) == 1


@as_stock()
async def test_a_client_in_the_same_thread(c, s, a):
    def task():
        with worker_client(separate_thread=False) as client:
            return state_of_task(), client.submit(inc, 1, workers=["elsewhere"]).status

    state, status = await c.submit(task)
    assert (state, status) == ("executing", "pending")


@as_stock()
async def test_tasks_of_a_task_belong_to_its_span(c, s, a):
    def task():
        with worker_client() as client:
            return client.submit(inc, 1, key="inner").result()

    with distributed.span("outer"):
        future = c.submit(task, key="task")
    plain = c.submit(inc, 5, key="plain")
    assert await future == 2
    assert await plain == 6
    names = {ts.key: s.extensions["spans"].spans[ts.group.span_id].name for ts in s.tasks.values()}
    assert names["task"] == ("outer",)
    assert names["plain"] == ("default",)
    story = {
        span.name for span in s.extensions["spans"].spans.values() if "inner" in span_keys(span)
    }
    assert story == {("outer",)}


def span_keys(span):
    return {group.name for group in span.groups}


# --------------------------------------------------------------------- watchers


def sleep_at_the_gate(g):
    return g.pass_through()


@as_stock(nthreads=[("127.0.0.1", 2)])
async def test_call_stacks(c, s, a):
    with gate("stacks") as g:
        x = c.submit(sleep_at_the_gate, g, key="x")
        await until(g.entered.is_set)
        stacks = await c.call_stack()
        by_future = await c.call_stack([x])
        g.opened.set()
        await x
    ((key, frames),) = stacks[a.address].items()
    assert key == "x"
    assert by_future == {a.address: {"x": by_future[a.address]["x"]}}
    text = "".join(frames)
    assert text.index("sleep_at_the_gate") < text.index("pass_through")
    assert await c.call_stack() == {}


@as_stock(config={"distributed.worker.profile.enabled": False})
async def test_profiles(c, s, a):
    """Of the task's own frames, below which there is nothing."""
    with gate("profiles") as g:
        x = c.submit(sleep_at_the_gate, g, key="x")
        await until(g.entered.is_set)
        for _ in range(5):
            a.trigger_profile()
        g.opened.set()
        await x
    assert set(a.profile_keys) == {"x"}
    profile = a.profile_keys["x"]
    assert profile["count"] == 5
    names = []
    while profile["children"]:
        (profile,) = [child for child in profile["children"].values() if child["count"] == 5]
        names.append(profile["description"]["name"])
        if names[-1] == "pass_through":
            break
    assert names[-2:] == ["sleep_at_the_gate", "pass_through"]
    assert not {"pull", "_run_task", "_run_task_simple", "_bootstrap"} & set(names)


@as_stock()
async def test_times(c, s, a):
    """When a task ran, and how long, by the scheduler's clock."""
    a.scheduler_delay = 1e6
    with gate("times") as g:
        x = c.submit(g.pass_through, key="x")
        await until(g.entered.is_set)
        before = time() + 1e6
        g.opened.set()
        await x
    ((start, stop),) = [
        (each["start"], each["stop"])
        for each in a.state.tasks["x"].startstops
        if each["action"] == "compute"
    ]
    assert start <= before <= stop <= time() + 1e6
    assert a.state.tasks["x"].start_time is not None
    assert a.state.threads["x"] in {thread.ident for thread in a.executors["default"]._threads}


@as_stock()
async def test_stimulus_ids_say_what_happened_and_when(c, s, a):
    before = time()
    await c.submit(inc, 1, key="x")
    after = time()
    finished = a.state.stimulus_story("x")[-1]
    assert type(finished) is ExecuteSuccessEvent
    what, when = re.fullmatch(r"(.*)-(\d+\.\d{1,7})", finished.stimulus_id).groups()
    assert what == "task-finished"
    assert before - 1e-6 <= float(when) <= after
