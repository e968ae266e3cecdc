"""A key is given up between being scheduled for flight and being fetched."""

from __future__ import annotations

import pytest
from dask.utils_test import inc

from support.in_process import HeldTransfers, cluster, until


def passed_through(worker, key, state):
    return any(entry[0] == key and state in entry[1:4] for entry in worker.state.log)


@pytest.mark.parametrize("detour", ["cancelled", "resumed"])
@cluster(config={"distributed.comm.timeouts.connect": "500ms"})
async def test_peer_lost_between_flight_and_fetch(c, s, a, x, detour):
    one = c.submit(inc, 1, workers=[a.address], key="one")
    two = c.submit(inc, 2, workers=[x.address], key="two")
    both = c.submit(sum, [one, two], workers=[x.address], key="both")
    assert await both == 5
    async with HeldTransfers(s.address, name="b") as b:
        last = c.submit(inc, both, workers=[b.address], key="last")
        await b.in_gather_dep.wait()
        assert b.state.tasks["both"].state == "flight"
        s.set_restrictions(worker={"two": a.address, "both": b.address})
        await s.remove_worker(x.address, expected=True, close=True, stimulus_id="gone")
        await until(lambda: passed_through(b, "both", detour))
        b.block_gather_dep.set()
        assert await last == 6
