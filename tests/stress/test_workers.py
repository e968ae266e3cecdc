"""Whole workers of 8 threads, and everything that can happen to a task, at once.

`support.stress.stories` says what happens, `support.stress.watch` what must be left in the end:
nothing.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stress import clusters
from support.stress.duration import SECONDS, SEED, takes
from support.stress.stories import STORIES, Stress

pytestmark = pytest.mark.slow

#: Seconds of one round. At the end of each, nothing may be left.
ROUND = 15.0

#: They are told of every task that fails, and those are meant to.
NOISY = ["distributed.worker", "distributed.protocol.pickle", "distributed.spill"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    faulthandler.enable(sys.__stderr__)
    levels = {name: logging.getLogger(name).level for name in NOISY}
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def rounds(share: float) -> list[tuple[int, float]]:
    """The seed and the seconds of each round of a test that has this share of the time."""
    n = max(2, round(share * SECONDS / ROUND))
    return [(SEED + i, share * SECONDS / n) for i in range(n)]


async def tell(stress: Stress, seconds: float, collect: bool) -> None:
    asyncio.get_running_loop().set_debug(False)  # on with -X dev; it takes most of the time
    print(f"\nseed {stress.seed}: {seconds:.0f} s, collecting garbage all the time: {collect}")
    try:
        await stress.run(seconds, collect)
    finally:
        print(dict(sorted(stress.told.items())), flush=True)


@takes(0.5)
def test_workers_in_this_process(tmp_path: Path) -> None:
    """Two workers that validate their state after each event."""

    async def play(seed: int, seconds: float, collect: bool) -> None:
        async with clusters.here(tmp_path, validate=True) as (client, workers):
            await tell(Stress(client, [w.address for w in workers], seed), seconds, collect)

    for i, (seed, seconds) in enumerate(rounds(0.5)):
        asyncio.run(play(seed, seconds, collect=i % 2 == 0))


@takes(0.3)
@pytest.mark.parametrize("n_workers", [1, 2])
def test_worker_processes(tmp_path: Path, n_workers: int) -> None:
    """Workers that have a process to themselves: the threads have all of the time."""

    async def play() -> None:
        async with clusters.processes(tmp_path, n_workers) as (client, workers):
            for i, (seed, seconds) in enumerate(rounds(0.15)):
                stress = Stress(client, workers, 1000 * n_workers + seed, at_once=10)
                await tell(stress, seconds, collect=i % 2 == 0)

    asyncio.run(play())


def test_that_a_lost_value_is_found(tmp_path: Path) -> None:
    """The tests above can fail: a value that the test keeps counts as left."""

    async def play() -> None:
        async with clusters.here(tmp_path, validate=True) as (client, workers):
            stress = Stress(client, [w.address for w in workers], SEED)
            kept = client.submit(lambda: 1, key="kept")
            await kept
            with pytest.raises(AssertionError, match=r"left over.*'tasks': \{'kept': 'memory'\}"):
                await stress.expect_nothing_left(patience=0.5)

    assert STORIES
    asyncio.run(play())
