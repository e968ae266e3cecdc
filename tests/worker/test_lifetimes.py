"""Nothing of a task outlives its use, even if no garbage is ever collected.

Python's garbage collector is off while these run, so that what stands in a reference cycle stays.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from distributed import secede, wait

from support.in_process import ONE_WORKER, cluster, gate, until

#: Of what the tasks of one test have made or been given.
SEEN: dict[str, list[weakref.ref]] = {}


def seen(what, thing):
    SEEN.setdefault(what, []).append(weakref.ref(thing))
    return thing


def alive():
    return {what for what, refs in SEEN.items() if any(ref() is not None for ref in refs)}


class Thing:
    pass


class Failure(Exception):
    pass


@pytest.fixture
def no_collector():
    SEEN.clear()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def work(argument, inputs, held, secedes, fails):
    seen("argument", argument)
    seen("input", inputs)
    local = seen("local", Thing())
    if secedes:
        secede()
    held.pass_through()
    if fails:
        raise seen("error", Failure("on purpose"))
    return seen("result", Thing()), bool(local)


async def work_on_loop(argument, inputs):
    seen("argument", argument)
    seen("input", inputs)
    local = seen("local", Thing())
    await asyncio.sleep(0)
    return seen("result", Thing()), bool(local)


async def look(client, worker):
    """All that looks at running tasks."""
    worker.trigger_profile()
    worker.get_call_stack()
    await client.call_stack()
    await client.profile()
    await client.story("x")
    await worker.heartbeat()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("how", ["plain", "seceded", "cancelled"])
@cluster(nthreads=ONE_WORKER, config={"distributed.worker.profile.enabled": False})
async def test_a_task_leaves_nothing(c, s, a, no_collector, how, fails):
    inputs = c.submit(Thing, key="inputs")
    await wait(inputs)
    with gate(f"{how}-{fails}") as held:
        x = c.submit(work, Thing(), inputs, held, how == "seceded", fails, key="x")
        await until(held.entered.is_set)
        await look(c, a)
        if how == "cancelled":
            await x.cancel(force=True)
            await until(lambda: a.state.tasks["x"].state == "cancelled")
    if how != "cancelled":
        await wait(x)
        await look(c, a)
    del x, inputs
    await until(lambda: not a.state.tasks)
    assert set(SEEN) == {"argument", "input", "local", "error" if fails else "result"}
    await until(lambda: not alive())


@cluster(nthreads=ONE_WORKER, config={"distributed.worker.profile.enabled": False})
async def test_a_task_on_the_loop_leaves_nothing(c, s, a, no_collector):
    inputs = c.submit(Thing, key="inputs")
    x = c.submit(work_on_loop, Thing(), inputs, key="x")
    await wait(x)
    assert set(SEEN) == {"argument", "input", "local", "result"}
    del x, inputs
    await until(lambda: not alive())


@pytest.mark.parametrize("fails", [False, True])
@cluster(nthreads=ONE_WORKER, config={"distributed.worker.profile.enabled": False})
async def test_a_thread_that_goes_on_with_other_tasks(c, s, a, no_collector, fails):
    """The first task of a thread that has been at work ever since."""
    inputs = c.submit(Thing, key="inputs")
    await wait(inputs)
    with gate(f"first-{fails}") as first, gate(f"next-{fails}") as following:
        x = c.submit(work, Thing(), inputs, first, False, fails, key="x")
        await until(first.entered.is_set)
        y = c.submit(following.pass_through, key="y")
        await until(lambda: "y" in a.state.tasks)
        known = weakref.ref(a.state.tasks["x"])
        first.opened.set()
        await until(following.entered.is_set)
        await wait(x)
        del x, inputs
        await until(lambda: "x" not in a.state.tasks)
        await until(lambda: not alive())
        # The log of transitions and the like know keys, not tasks
        await until(lambda: known() is None)
    await wait(y)
