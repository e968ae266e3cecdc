"""A key is given up between being scheduled for flight and being fetched."""

from __future__ import annotations

import asyncio

import pytest
from distributed.utils_test import gen_cluster, inc

import fastworker


class HeldBack(fastworker.Worker):
    """Does not start a transfer before it is allowed to."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.wants_to_fetch = asyncio.Event()
        self.may_fetch = asyncio.Event()

    async def gather_dep(self, *args, **kwargs):
        self.wants_to_fetch.set()
        await self.may_fetch.wait()
        return await super().gather_dep(*args, **kwargs)


def passed_through(worker, key, state):
    return any(entry[0] == key and state in entry[1:4] for entry in worker.state.log)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("detour", ["cancelled", "resumed"])
@gen_cluster(
    client=True,
    Worker=fastworker.Worker,
    config={"distributed.comm.timeouts.connect": "500ms"},
    timeout=60,
)
async def test_peer_lost_between_flight_and_fetch(c, s, a, x, detour):
    one = c.submit(inc, 1, workers=[a.address], key="one")
    two = c.submit(inc, 2, workers=[x.address], key="two")
    both = c.submit(sum, [one, two], workers=[x.address], key="both")
    assert await both == 5
    async with HeldBack(s.address, name="b") as b:
        last = c.submit(inc, both, workers=[b.address], key="last")
        await b.wants_to_fetch.wait()
        assert b.state.tasks["both"].state == "flight"
        s.set_restrictions(worker={"two": a.address, "both": b.address})
        await s.remove_worker(x.address, expected=True, close=True, stimulus_id="gone")
        await until(lambda: passed_through(b, "both", detour))
        b.may_fetch.set()
        assert await last == 6
