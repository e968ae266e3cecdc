"""Results on their way from one worker process to another, stock's and fastworker's in turn.

The receiver is asked to fetch them and looks at its clock until it has them all: neither the
scheduler nor the client has a part in it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pytest
from distributed import Client, wait
from distributed.worker_state_machine import AcquireReplicasEvent

from clusters import OURS, PATIENCE, STOCK, cluster
from versus import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The workers cannot import `fetch`
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Load(NamedTuple):
    """So many results of so many bytes; ``at_least`` is the ratio to reach."""

    nbytes: int
    count: int
    at_least: float


LOADS = {
    "1KiB": Load(1 << 10, 3000, 6.0),
    "1MiB": Load(1 << 20, 200, 1.5),
    "10MiB": Load(10 << 20, 40, 1.4),
    "64MiB": Load(64 << 20, 8, 2.0),
}


async def fetch(address: str, keys: list[str], nbytes: int, dask_worker: Any) -> float:
    """Seconds until the worker that runs this has got the results."""
    event = AcquireReplicasEvent(
        who_has={key: [address] for key in keys},
        nbytes=dict.fromkeys(keys, nbytes),
        stimulus_id="benchmark",
    )
    start = time.perf_counter()
    dask_worker.handle_stimulus(event)
    while dask_worker.state.in_flight_workers or not all(key in dask_worker.data for key in keys):
        await asyncio.sleep(0)
        if time.perf_counter() - start > PATIENCE:
            raise TimeoutError(f"{len(keys)} results of {nbytes} bytes")
    return time.perf_counter() - start


def transfer(client: Client, load: Load) -> float:
    """Seconds for all of the load."""
    addresses = {w["name"]: a for a, w in client.scheduler_info(n_workers=-1)["workers"].items()}
    sizes = [load.nbytes // 8] * load.count
    futures = client.map(np.full, sizes, range(load.count), workers="w0", pure=False)
    done = wait(futures, PATIENCE).done
    assert all(future.status == "finished" for future in done)
    keys = [future.key for future in futures]
    (seconds,) = client.run(
        fetch, addresses["w0"], keys, load.nbytes, workers=[addresses["w1"]]
    ).values()
    del futures
    time.sleep(0.5)  # what is freed is freed
    return float(seconds)


def test_transfer(record: Record, tmp_path: Path) -> None:
    """Wall time for one result."""
    best: dict[str, dict[str, float]] = {name: {} for name in LOADS}
    with cluster(tmp_path, "stock", [STOCK, STOCK]) as stock:
        with cluster(tmp_path, "ours", [OURS, OURS]) as ours:
            for turn in range(3 if record.short else 6):
                for name, load in LOADS.items():
                    for side, client in (("stock", stock), ("ours", ours)):
                        with client.as_current():
                            client.amm.stop()  # it would drop copies that no task needs
                            micros = 1e6 * transfer(client, load) / load.count
                        if turn:  # the first one warms up
                            best[name][side] = min(micros, best[name].get(side, micros))
    for name, load in LOADS.items():
        record(f"transfer/{name}", unit="us/result", at_least=load.at_least, **best[name])
