"""What profiles and call stacks of tasks are made of."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from collections import defaultdict

import dask
import pytest
from dask.utils import key_split
from distributed import get_worker, profile, secede

from fastworker.monitoring.profiling import (
    MAX_DEPTH,
    WORKER,
    _add,
    _stack_of_task,
    call_stacks,
    profile_tasks,
)
from fastworker.monitoring.stacks import copy_stacks
from support import changing_frames
from support.in_process import ONE_WORKER, cluster, gate, until


def from_file(name, function="call"):
    """A function that calls another one, and claims to come from that file."""
    names = {}
    exec(compile(f"def {function}(f, *args): return f(*args)", f"/somewhere/{name}", "exec"), names)
    return names[function]


def deep(n, f):
    return deep(n - 1, f) if n else f()


def names(stack):
    return [frame.f_code.co_name for frame in stack]


def frames_of_this_thread():
    [(_ident, _value, frames)] = copy_stacks({threading.get_ident(): None})
    return frames[1:]


def here():
    return _stack_of_task(frames_of_this_thread())


@pytest.mark.parametrize("depth", [0, 5, 99, 100, 101, 300])
def test_trees_are_those_of_distributed(depth):
    """The same stack, given to distributed's profiler and to ours, twice."""

    def look():
        return grow_both()

    def grow_both():
        caller, copies = sys._getframe(1), frames_of_this_thread()[1:]
        theirs = profile.create()
        ours = profile.create()
        for _ in range(2):
            profile.process(caller, True, theirs, stop=WORKER)
            _add(ours, _stack_of_task(copies))
        assert [profile.repr_frame(frame) for frame in copies[::-1]] == profile.call_stack(caller)
        return ours, theirs

    ours, theirs = from_file(WORKER)(deep, depth, look)
    assert ours == theirs
    assert ours["count"] == 2


@pytest.mark.parametrize("file, function, found", [
    (WORKER, "call", True),
    ("fastworker/execution/pool.py", "pull", True),
    ("fastworker/execution/pool.py", "call", False),
    ("another/pool.py", "pull", False),
])  # fmt: skip
def test_where_the_stack_of_a_task_ends(file, function, found):
    stack = from_file(file, function)(here)
    assert names(stack) == (["here"] if found else [])
    assert len(from_file(file, function)(deep, 500, here)) == (MAX_DEPTH if found else 0)


def test_a_thread_that_is_in_no_task():
    assert here() == []


@contextlib.contextmanager
def threads_with_tasks(*keys):
    """Threads that run tasks until the block ends, and are in no pool: ``{ident: key}``."""
    started, end = threading.Barrier(len(keys) + 1), threading.Event()

    def task():
        temporary = Temporary()
        started.wait(20)
        end.wait(20)
        return temporary

    pull = from_file("fastworker/execution/pool.py", "pull")
    threads = [threading.Thread(target=pull, args=(task,)) for _ in keys]
    for thread in threads:
        thread.start()
    started.wait(20)
    try:
        yield {thread.ident: key for thread, key in zip(threads, keys, strict=True)}
    finally:
        end.set()
        for thread in threads:
            thread.join(20)


def test_profiles_of_threads():
    recent, by_prefix, told = profile.create(), defaultdict(profile.create), []
    profile_tasks({}, recent, by_prefix, False, lambda *figure: told.append(figure))
    assert (recent["count"], dict(by_prefix), told) == (0, {}, [])
    with threads_with_tasks("inc-1", "inc-2", ("add", 3)) as active:
        for _ in range(2):
            profile_tasks(active, recent, by_prefix, False, lambda *figure: told.append(figure))
    assert recent["count"] == 6
    assert {prefix: tree["count"] for prefix, tree in by_prefix.items()} == {"inc": 4, "add": 2}
    (top,) = recent["children"].values()
    assert top["description"]["name"] == "task"
    assert [name for name, seconds in told if seconds >= 0] == 2 * ["profile-duration"]


def test_call_stacks_of_threads():
    with threads_with_tasks("x", "y") as active:
        stacks = call_stacks(active)
        assert set(stacks) == {"x", "y"}
        assert any("in task\n" in frame for frame in stacks["x"])
        assert set(call_stacks(active, ["y", "unknown"])) == {"y"}
        assert call_stacks(active, []) == {}


@pytest.mark.parametrize("look", [
    lambda active: profile_tasks(
        active, profile.create(), defaultdict(profile.create), False, lambda *figure: None
    ),
    call_stacks,
])  # fmt: skip
def test_frames_go_when_the_thread_lets_go_of_them(look):
    Temporary.seen.clear()
    gc.disable()
    try:
        with threads_with_tasks("x") as active:
            look(active)
            assert Temporary.seen[0]() is not None
        assert Temporary.seen[0]() is None
    finally:
        gc.enable()


def in_task():
    # As when a task secedes: the pool starts a thread in its place
    return names(from_file("fastworker/execution/pool.py", "_adjust_thread_count")(here))


def in_seceded_task():
    secede()
    return in_task()


@cluster(nthreads=ONE_WORKER)
async def test_tasks_on_threads_of_every_kind(c, s, a):
    expected = ["__call__", "in_task", "_adjust_thread_count", "here"]
    assert await c.submit(in_task) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(a.executors, "other", a.executors["actor"])
        with dask.annotate(executor="other"):
            assert await c.submit(in_task, pure=False) == expected
    assert await c.submit(in_seceded_task) == [expected[0], "in_seceded_task", *expected[1:]]


@cluster(nthreads=[("127.0.0.1", 2)])
async def test_call_stacks_of_running_tasks(c, s, a):
    assert a.get_call_stack() == {}
    with gate("held") as held, gate("other") as other:
        x = c.submit(held.pass_through, key="x")
        y = c.submit(other.pass_through, key="y")
        await until(lambda: held.entered.is_set() and other.entered.is_set())
        stacks = a.get_call_stack()
        assert set(stacks) == {"x", "y"}
        for stack in stacks.values():
            assert "_bootstrap" in stack[0]
            assert any("in pass_through" in frame for frame in stack)
        assert set(a.get_call_stack(keys=["y", "unknown"])) == {"y"}
        before = a.profile_recent["count"], a.profile_keys["x"]["count"]
        remembered = key_split.cache_info()
        a.trigger_profile()
        assert key_split.cache_info() == remembered  # it is not asked, for it keeps every key
        assert a.profile_recent["count"] >= before[0] + 2
        assert a.profile_keys["x"]["count"] >= before[1] + 1
    await c.gather([x, y])
    assert a.get_call_stack() == {}


class Temporary:
    """What a task has in a variable and lets go of in the end."""

    seen: list[weakref.ref] = []

    def __init__(self):
        self.seen.append(weakref.ref(self))


def has_temporary(held):
    temporary = Temporary()
    held.pass_through()
    return bool(temporary)


@pytest.mark.parametrize("look", ["trigger_profile", "get_call_stack"])
@cluster(nthreads=ONE_WORKER)
async def test_looks_at_a_task_do_not_keep_its_variables(c, s, a, look):
    Temporary.seen.clear()
    gc.disable()
    try:
        with gate(look) as held:
            x = c.submit(has_temporary, held, key="x")
            await until(held.entered.is_set)
            getattr(a, look)()
        await x
        await until(lambda: Temporary.seen[0]() is None)
    finally:
        gc.enable()


def test_stacks_that_change_meanwhile():
    """A look that runs the garbage collector lets the thread go on that it looks at."""
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", changing_frames.__file__],
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


class LooksAtItself:
    """A task that asks its own worker what it is doing."""

    def __call__(self):
        temporary = Temporary()
        worker = get_worker()
        worker.trigger_profile()
        return bool(temporary), worker.get_call_stack()


@cluster(nthreads=ONE_WORKER)
async def test_a_task_that_looks_at_itself(c, s, a):
    Temporary.seen.clear()
    gc.disable()
    try:
        _, stacks = await c.submit(LooksAtItself(), key="x")
        await until(lambda: Temporary.seen[0]() is None)
    finally:
        gc.enable()
    assert "in __call__\n" in stacks["x"][-3]
    assert "in get_call_stack\n" in stacks["x"][-2]
    assert a.profile_recent["count"] == 1


def come_and_go(worker, stop, n):
    """Enter and leave as a thread that is in no task, as fast as can be."""
    while not stop.is_set():
        worker.active_threads[-n] = f"key-{n}"
        del worker.active_threads[-n]


@cluster(nthreads=ONE_WORKER)
async def test_threads_that_come_and_go_meanwhile(c, s, a):
    """Threads with plain tasks enter and leave without a lock."""
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=come_and_go, args=(a, stop, n)) for n in range(1, 5)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            assert a.get_call_stack() == {}
            a.trigger_profile()
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(20)
