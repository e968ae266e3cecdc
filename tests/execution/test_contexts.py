"""The context variables that tasks find: distributed's, set by preload, plugin or caller."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import time
from typing import ClassVar

import distributed
import numpy as np
import pytest
from distributed import WorkerPlugin, get_worker
from distributed.worker import thread_state

import fastworker
from support.beside_stock import as_stock
from support.in_process import cluster

VARIABLE = contextvars.ContextVar("VARIABLE", default="default")

PRELOAD = """
import decimal
import numpy
from {module} import set_all

{prefix}def dask_setup(worker):
    set_all("preload", 5)
"""


def set_all(who, precision):
    VARIABLE.set(who)
    decimal.getcontext().prec = precision
    np.seterr(divide="raise")


def look():
    return VARIABLE.get(), decimal.getcontext().prec, np.geterr()["divide"]


def set_and_look():
    before = look()
    set_all("task", 7)
    return before


async def look_on_loop():
    return look()


async def set_on_loop():
    set_all("run", 6)


class Plugin(WorkerPlugin):
    def setup(self, worker):
        set_all("plugin", 8)


async def seen(c, worker):
    """What tasks of every kind find, one after the other."""
    return [
        await c.submit(f, pure=False, workers=[worker.address])
        for f in (set_and_look, look, look_on_loop)
    ]


async def with_worker(cls, c, s, **kwargs):
    async with cls(s.address, nthreads=1, **kwargs) as worker:
        out = await seen(c, worker)
        await c.run(set_all, "run", 6, workers=[worker.address])
        await c.run(set_on_loop, workers=[worker.address])
        return out + await seen(c, worker)


async def compare(c, s, before=lambda: None, **kwargs):
    """What tasks of distributed's worker and of ours find, each in a context of its own."""

    async def run(cls):
        # A context of decimal's is an object that copies of a context share
        decimal.setcontext(decimal.Context(prec=28))
        before()
        return await with_worker(cls, c, s, **kwargs)

    stock = await asyncio.create_task(run(distributed.Worker))
    ours = await asyncio.create_task(run(fastworker.Worker))
    assert ours == stock
    return ours[0]


@pytest.mark.parametrize("prefix", ["", "async "])
@cluster(nthreads=[])
async def test_set_by_a_preload(c, s, prefix):
    found = await compare(c, s, preload=PRELOAD.format(module=__name__, prefix=prefix))
    assert found == ("preload", 5, "raise")


@cluster(nthreads=[])
async def test_set_by_a_plugin(c, s):
    await compare(c, s, plugins=[Plugin()])


@cluster(nthreads=[])
async def test_set_by_a_plugin_of_the_scheduler(c, s):
    await c.register_plugin(Plugin())
    await compare(c, s)


@cluster(nthreads=[])
async def test_set_where_the_worker_is_made(c, s):
    """In the process of a notebook, say."""
    assert await compare(c, s, lambda: set_all("caller", 9)) == ("caller", 9, "raise")


class Weighed:
    """Looks around while it is weighed, and takes its time."""

    seen: ClassVar[list[tuple[str, str, object]]] = []

    def __sizeof__(self):
        time.sleep(0.05)
        with contextlib.suppress(ValueError):  # weighed outside of tasks too
            self.seen.append((get_worker().name, thread_state.key, VARIABLE.get()))
        return 10


def make_weighed():
    VARIABLE.set("task")
    return Weighed()


@as_stock()
async def test_a_result_is_weighed_as_a_part_of_its_task(c, s, a):
    Weighed.seen.clear()
    await distributed.wait(c.submit(make_weighed, key="x", workers=[a.address]))
    assert Weighed.seen[0] == (a.name, "x", "task")
    # It counts as work of the task's
    [startstop] = [each for each in a.state.tasks["x"].startstops if each["action"] == "compute"]
    assert startstop["stop"] - startstop["start"] >= 0.05
