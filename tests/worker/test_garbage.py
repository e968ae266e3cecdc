"""No reference cycle is of our making: what is done leaves nothing to the garbage collector.

Each test does something many times, with the collector off, and looks at what it finds at the end.
"""

from __future__ import annotations

import gc
import types
from collections import Counter

import pytest
from distributed import secede, wait

from support.in_process import cluster, gate, until

TIMES = 10


def frame_of(thing):
    """Of a frame, or a coroutine or generator that has not ended; None for anything else."""
    if isinstance(thing, types.FrameType):
        return thing
    if isinstance(thing, types.CoroutineType):
        return thing.cr_frame
    if isinstance(thing, types.GeneratorType):
        return thing.gi_frame
    return None


def name_if_ours(thing):
    """What an object that was garbage is, if it is code of this package or of a type of its."""
    frame = frame_of(thing)
    if frame is not None:
        code = frame.f_code
        return code.co_name if "/fastworker/" in code.co_filename else None
    cls = type(thing)
    return cls.__qualname__ if cls.__module__.startswith("fastworker.") else None


class Garbage:
    """Counts what is in cycles, from `__enter__` on; the counts are those of objects of ours."""

    def __enter__(self):
        gc.collect()
        gc.disable()
        return self

    def __exit__(self, *_):
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            self.ours = Counter(name for name in map(name_if_ours, gc.garbage) if name)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


def inc(x):
    return x + 1


def fail(x):
    raise ValueError(x)


def leave(x):
    secede()
    return x


async def inc_on_loop(x):
    return x + 1


async def plain(c, s, a, b):
    await c.gather(c.map(inc, range(TIMES), pure=False))


async def failing(c, s, a, b):
    await wait(c.map(fail, range(TIMES), pure=False))


async def seceding(c, s, a, b):
    await c.gather(c.map(leave, range(TIMES), pure=False))


async def on_loop(c, s, a, b):
    await c.gather(c.map(inc_on_loop, range(TIMES), pure=False))


async def transfers(c, s, a, b):
    xs = c.map(bytes, [100_000 + i for i in range(TIMES)], workers=[a.address], pure=False)
    await c.gather(c.map(len, xs, workers=[b.address]))
    await c.gather(xs)


async def scattered(c, s, a, b):
    for i in range(TIMES):
        await c.scatter({f"scattered-{i}": i})


async def cancelled(c, s, a, b):
    with gate("cancelled") as held:
        xs = [c.submit(held.pass_through, i, key=f"x-{i}") for i in range(TIMES)]
        await until(held.entered.is_set)
        await c.cancel(xs)
    await until(lambda: not a.state.tasks and not b.state.tasks)


async def looked_at(c, s, a, b):
    with gate("looked at") as held:
        x = c.submit(held.pass_through, 1, key="x")
        await until(held.entered.is_set)
        for _ in range(TIMES):
            for worker in (a, b):
                worker.trigger_profile()
                worker.cycle_profile()
                await worker.heartbeat()
            await c.call_stack()
            await c.profile()
            await c.story("x")
            await c.get_versions()
    await x


async def asked(c, s, a, b):
    """By RPC, and in vain."""
    for i in range(TIMES):
        await c.run(inc, i)
        with pytest.raises(ValueError):
            await c.run(fail, i)
        a.state._to_dict()
        str(a), repr(a.state)


@pytest.mark.parametrize("do", [
    plain, failing, seceding, on_loop, transfers, scattered, cancelled, looked_at, asked,
])  # fmt: skip
@cluster(config={"distributed.worker.profile.enabled": False})
async def test_no_garbage_of_ours(c, s, a, b, do):
    await c.submit(inc, 1)
    with Garbage() as garbage:
        await do(c, s, a, b)
        await until(lambda: not a.state.executing and not b.state.executing)
    assert not garbage.ours
