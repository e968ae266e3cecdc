"""What happens to workers in the stress tests: small stories, many at once, with known ends."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest
from dask.typing import Key
from distributed import Client, span

from support.stress import tasks, watch
from support.stress.values import Awkward, AwkwardError

#: Seconds that a story may take, on a slow machine in bad weather.
PATIENCE = 120


class Stress:
    """Tells stories on a cluster until the time is over.

    Parameters
    ----------
    client: Client
        Asynchronous.
    workers: list of str
        Addresses.
    seed: int
        What happens is drawn from it. Its order in time is not: that is for the machine to say.
    at_once: int
        How many stories go on at the same time.
    """

    def __init__(self, client: Client, workers: list[str], seed: int, at_once: int = 6) -> None:
        self.client = client
        self.workers = workers
        self.seed = seed
        self.at_once = at_once
        self.chance = random.Random(seed)
        self.told: Counter[str] = Counter()
        self._n_keys = 0

    def keys(self, name: str, n: int) -> list[Key]:
        """New keys: of strings, or of tuples."""
        first = self._n_keys
        self._n_keys += n
        if self.chance.random() < 0.5:
            return [f"{name}-{i}" for i in range(first, first + n)]
        return [(f"{name}-{self.seed}", i, "part") for i in range(first, first + n)]

    async def run(self, seconds: float, collect: bool = True) -> None:
        """Raises what went wrong in a story, or in the thread that reads the worker's state."""
        await self.client.run(watch.start, self.seed, collect)
        end = watch.now() + seconds
        disturbing = asyncio.create_task(self.disturb(end))
        try:
            await asyncio.gather(*(self.tell_stories(end) for _ in range(self.at_once)))
        finally:
            await disturbing
            errors = await self.client.run(watch.stop)
        for worker, found in errors.items():
            assert not found, f"{worker}:\n" + "\n".join(
                f"{look}: {error}" for look, error in found.items()
            )
        await self.expect_nothing_left()

    async def tell_stories(self, end: float) -> None:
        while watch.now() < end:
            story = self.chance.choice(STORIES)
            try:
                await asyncio.wait_for(story(self), PATIENCE)
            except asyncio.TimeoutError:
                raise AssertionError(f"{story.__name__} does not end") from None
            self.told[story.__name__] += 1

    async def disturb(self, end: float) -> None:
        """Pause workers, spill, have plugins come and go."""
        n = 0
        while watch.now() < end:
            n += 1
            worker = [self.chance.choice(self.workers)]
            what = self.chance.choice(["pause", "pause", "listen", "plugin", "evict"])
            if what == "pause":
                await self.client.run(watch.pause, workers=worker)
                await asyncio.sleep(self.chance.uniform(0, 0.05))
                await self.client.run(watch.unpause, workers=worker)
            elif what == "evict":
                await self.client.run(watch.evict, workers=worker)
            else:
                name = f"plugin-{n}"
                await self.client.run(watch.add_plugin, name, what == "listen", workers=worker)
                await asyncio.sleep(self.chance.uniform(0, 0.05))
                await self.client.run(watch.remove_plugin, name, workers=worker)
            self.told[what] += 1
            await asyncio.sleep(self.chance.uniform(0, 0.1))

    async def expect_nothing_left(self, patience: float = 60) -> None:
        """Everything was let go; give the news some time to get around."""
        end = watch.now() + patience
        while True:
            gc.collect()  # tracebacks may hold futures
            left = await self.client.run(watch.left)
            left = {worker: what for worker, what in left.items() if what}
            if not left and not self.client.futures:
                return
            assert watch.now() < end, f"left over: {left}, {list(self.client.futures)}"
            await asyncio.sleep(0.2)


Story = Callable[[Stress], Awaitable[None]]
STORIES: list[Story] = []


def story(tell: Story) -> Story:
    STORIES.append(tell)
    return tell


@story
async def tiny_tasks(s: Stress) -> None:
    n = s.chance.randrange(1, 100)
    function = s.chance.choice([tasks.double, tasks.switching])
    futures = s.client.map(function, range(n), key=s.keys("tiny", n))
    assert await s.client.gather(futures) == [2 * x for x in range(n)]


@story
async def a_tree(s: Stress) -> None:
    n = s.chance.randrange(2, 40)
    layer = s.client.map(tasks.double, range(n), key=s.keys("leaf", n))
    while len(layer) > 1:
        keys = s.keys("node", (len(layer) + 1) // 2)
        layer = [
            s.client.submit(tasks.add, *layer[2 * i : 2 * i + 2], key=key)
            for i, key in enumerate(keys)
        ]
    assert await layer[0] == n * (n - 1)


@story
async def in_a_span(s: Stress) -> None:
    n = s.chance.randrange(1, 20)
    with span(f"span-{s.chance.randrange(100)}"):
        futures = s.client.map(tasks.double, range(n), key=s.keys("spanned", n))
    assert await s.client.gather(futures) == [2 * x for x in range(n)]


@story
async def cancelled_tasks(s: Stress) -> None:
    """Some are not wanted any more; of these, some are wanted after all."""
    n = s.chance.randrange(10, 60)
    keys = s.keys("cancelled", n)
    futures = s.client.map(tasks.slow, range(n), key=keys)
    await asyncio.sleep(s.chance.uniform(0, 0.03))
    doomed = s.chance.sample(range(n), n // 2)
    await s.client.cancel([futures[i] for i in doomed])
    back = doomed[: len(doomed) // 2]
    again = [s.client.submit(tasks.slow, i, key=keys[i]) for i in back]
    for i in set(range(n)) - set(doomed):
        assert await futures[i] == 2 * i
    for i, future in zip(back, again, strict=True):
        # The client may hear only now that they were cancelled, and takes that for news
        with suppress(CancelledError):
            assert await future == 2 * i
    for i in set(doomed) - set(back):
        with pytest.raises(CancelledError):
            await futures[i]
    # If it did so, it counts the two futures of a key wrongly, and would want the result for ever
    await s.client.cancel(again)


@story
async def forgotten_tasks(s: Stress) -> None:
    """The client lets them go before they run, while they do, or after."""
    n = s.chance.randrange(10, 60)
    first = s.client.map(tasks.make, range(n), key=s.keys("unwanted", n))
    then = s.client.map(tasks.numbers_of, first, key=s.keys("unwanted", n))
    await asyncio.sleep(s.chance.uniform(0, 0.03))
    del first, then


@story
async def failing_tasks(s: Stress) -> None:
    n = s.chance.randrange(2, 20)
    good = s.client.map(tasks.double, range(n), key=s.keys("good", n))
    bad = s.client.map(tasks.fail, range(n), key=s.keys("bad", n))
    worse = s.client.map(tasks.add, good, bad, key=s.keys("worse", n))
    for x in range(n):
        for future in (bad[x], worse[x]):
            # Not raised, or its traceback would hold the futures
            error = await future.exception()
            assert isinstance(error, AwkwardError) and error.held == Awkward(x), error
    assert await s.client.gather(good) == [2 * x for x in range(n)]


@story
async def rescheduled_tasks(s: Stress) -> None:
    n = s.chance.randrange(2, 20)
    keys = s.keys("again", n)
    futures = [
        s.client.submit(tasks.again, str(key), x, s.chance.randrange(3), key=key)
        for x, key in enumerate(keys)
    ]
    assert await s.client.gather(futures) == [2 * x for x in range(n)]


@story
async def awkward_values(s: Stress) -> None:
    n = s.chance.randrange(2, 30)
    made = s.client.map(tasks.make, range(n), key=s.keys("awkward", n))
    keys = s.keys("numbers", n)
    futures = [
        s.client.submit(tasks.numbers_of, made[x], made[(x * 7 + 1) % n], key=keys[x])
        for x in range(n)
    ]
    del made
    assert await s.client.gather(futures) == [[x, (x * 7 + 1) % n] for x in range(n)]


@story
async def awkward_arguments(s: Stress) -> None:
    """Values that come as part of the task."""
    n = s.chance.randrange(2, 10)
    others = [Awkward(x % 2) for x in range(4)]
    futures = [
        s.client.submit(tasks.compare, Awkward(x % 2), others, key=key)
        for x, key in enumerate(s.keys("compare", n))
    ]
    assert await s.client.gather(futures) == [2] * n


@story
async def large_values(s: Stress) -> None:
    """More than may be in memory, and some that are too heavy alone."""
    n = s.chance.randrange(2, 30)
    sizes = [s.chance.choice([1000, 20_000, 300_000]) for _ in range(n)]
    blobs = s.client.map(tasks.blob, range(n), sizes, key=s.keys("blob", n))
    made = s.client.map(tasks.make, range(n), sizes, key=s.keys("heavy", n))
    keys, more_keys = s.keys("measure", n), s.keys("numbers", n)
    measured = [
        s.client.submit(tasks.measure, blobs[x], blobs[x - 1], key=keys[x]) for x in range(n)
    ]
    numbers = [
        s.client.submit(tasks.numbers_of, made[x], made[x - 1], key=more_keys[x]) for x in range(n)
    ]
    del made
    assert await s.client.gather(measured) == [
        [(x, sizes[x]), ((x - 1) % n, sizes[x - 1])] for x in range(n)
    ]
    assert await s.client.gather(numbers) == [[x, (x - 1) % n] for x in range(n)]


@story
async def values_that_do_not_pickle(s: Stress) -> None:
    """They stay in memory, or their task has failed if they are too heavy for that."""
    worker = s.chance.choice(s.workers)
    (small_key, small_user, large_key) = s.keys("stubborn", 3)
    small = s.client.submit(tasks.make_unpicklable, 1, 1000, key=small_key, workers=[worker])
    user = s.client.submit(tasks.numbers_of, small, key=small_user, workers=[worker])
    large = s.client.submit(tasks.make_unpicklable, 1, 10_000_000, key=large_key, workers=[worker])
    assert await user == [1]
    assert isinstance(await large.exception(), TypeError)


@story
async def stolen_tasks(s: Stress) -> None:
    """All for one worker, unless another one takes some off it."""
    n = s.chance.randrange(20, 100)
    futures = s.client.map(
        tasks.slow,
        range(n),
        seconds=0.005,
        key=s.keys("stolen", n),
        workers=[s.chance.choice(s.workers)],
        allow_other_workers=True,
    )
    assert await s.client.gather(futures) == [2 * x for x in range(n)]


@story
async def seceding_tasks(s: Stress) -> None:
    n = s.chance.randrange(1, 12)
    there = s.client.map(
        tasks.leave_and_return, range(n), times=s.chance.randrange(1, 4), key=s.keys("back", n)
    )
    gone = s.client.map(tasks.leave, range(n), key=s.keys("gone", n))
    assert await s.client.gather(there) == [2 * x for x in range(n)]
    assert await s.client.gather(gone) == [2 * x for x in range(n)]


@story
async def spawning_tasks(s: Stress) -> None:
    n = s.chance.randrange(1, 4)
    futures = s.client.map(tasks.spawn, range(n), key=s.keys("spawn", n))
    assert await s.client.gather(futures) == [6 * x + 6 for x in range(n)]


@story
async def tasks_on_the_loop(s: Stress) -> None:
    n = s.chance.randrange(1, 20)
    first = s.client.map(tasks.on_loop, range(n), key=s.keys("async", n))
    then = s.client.map(tasks.double, first, key=s.keys("after", n))
    assert await s.client.gather(then) == [4 * x for x in range(n)]


@story
async def limited_tasks(s: Stress) -> None:
    n = s.chance.randrange(1, 20)
    futures = s.client.map(
        tasks.switching, range(n), key=s.keys("limited", n), resources={"token": 1}
    )
    assert await s.client.gather(futures) == [2 * x for x in range(n)]


@story
async def scattered_values(s: Stress) -> None:
    n = s.chance.randrange(1, 10)
    # The scheduler fails to copy anything while its only worker is paused
    broadcast = s.chance.random() < 0.5 and len(s.workers) > 1
    made = await s.client.scatter(
        [Awkward(x, 2000) for x in range(n)], hash=False, broadcast=broadcast
    )
    future = s.client.submit(tasks.numbers_of, *made, key=s.keys("scattered", 1)[0])
    del made
    assert await future == list(range(n))


@story
async def replicated_values(s: Stress) -> None:
    n = s.chance.randrange(1, 20)
    made = s.client.map(tasks.make, range(n), key=s.keys("replicated", n))
    await s.client.gather(s.client.map(tasks.numbers_of, made, key=s.keys("ready", n)))
    with suppress(ValueError):  # the scheduler fails to if a worker that has some is paused
        await s.client.replicate(made)
    futures = s.client.map(tasks.numbers_of, made, made[::-1], key=s.keys("used", n))
    assert await s.client.gather(futures) == [[x, n - 1 - x] for x in range(n)]


@story
async def an_actor(s: Stress) -> None:
    key = s.keys("actor", 1)[0]
    actor = await s.client.submit(tasks.Tally, actor=True, key=key)
    counts = [await actor.count(x) for x in range(5)]
    assert counts == [0, 1, 3, 6, 10]


@story
async def waiting_tasks(s: Stress) -> None:
    """Tasks that depend on one that is let go while they wait."""
    n = s.chance.randrange(1, 10)
    first = s.client.map(tasks.slow, range(n), key=s.keys("first", n))
    then = s.client.map(tasks.slow, first, key=s.keys("then", n))
    await asyncio.sleep(s.chance.uniform(0, 0.01))
    await s.client.cancel(first[: n // 2], force=True)
    for x in range(n // 2, n):
        assert await then[x] == 4 * x
