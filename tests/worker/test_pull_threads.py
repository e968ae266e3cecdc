"""What a task sees and may do in a pull thread is what it sees and may do in a thread of stock's.

Every test runs with distributed's own worker too, which says what is right.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import sys
import threading
import weakref
from contextvars import ContextVar

import distributed
import pytest
from dask.utils_test import inc
from distributed import Nanny, Reschedule, get_client, get_worker, rejoin, secede, worker_client
from distributed.core import Status
from distributed.metrics import time
from distributed.scheduler import KilledWorker
from distributed.utils import thread_state
from distributed.utils_test import gen_cluster, wait_for_state
from distributed.worker_state_machine import ExecuteSuccessEvent
from worker_clusters import ONE_WORKER, cluster, gate, until

import fastworker

WORKERS = {"stock": distributed.Worker, "ours": fastworker.Worker}


def as_stock(nthreads=ONE_WORKER, nanny=False, **kwargs):
    """A decorator like ``cluster`` of worker_clusters, for a test with both kinds of workers.

    Parameters of the test's own are keyword-only.
    """

    def decorate(test):
        @pytest.mark.parametrize("kind", WORKERS)
        def both(kind, **parameters):
            worker = {"Worker": WORKERS[kind]}
            if nanny:
                worker = {"Worker": Nanny, "worker_kwargs": {"worker_class": WORKERS[kind]}}
            run = gen_cluster(client=True, nthreads=nthreads, timeout=60, **worker, **kwargs)
            run(test)(**parameters)

        both.__name__ = test.__name__
        both.__doc__ = test.__doc__
        both.__signature__ = inspect.Signature(
            [
                inspect.Parameter("kind", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *(
                    p
                    for p in inspect.signature(test).parameters.values()
                    if p.kind == p.KEYWORD_ONLY
                ),
            ]
        )
        return both

    return decorate


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
async def test_context_variables_of_whoever_started_the_worker(c, s, kind):
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
    # Whoever came back has taken the place of the other thread, which is gone
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


# --------------------------------------------------------------------- how tasks end


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
    pid = a.pid
    with pytest.raises(KilledWorker):
        await c.submit(raise_it, error, key="x")
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


# --------------------------------------------------------------------- which task, and when

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


# --------------------------------------------------------------------- who watches


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
