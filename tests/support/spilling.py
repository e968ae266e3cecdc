"""Workers that spill early, and what runs on them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastworker.data.store import Store

KIB = 2**10

#: Only the sizes of the data decide, not what the process needs besides.
SPILLING = {
    "distributed.worker.memory.target": 0.1,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


def make(i: int, nbytes: int = 10 * KIB) -> bytes:
    return bytes([i % 256]) * nbytes


def first_byte(data: bytes) -> int:
    assert data == data[:1] * len(data)
    return data[0]


def type_of_data(dask_worker: Any) -> tuple[str, int]:
    return type(dask_worker.data).__name__, dask_worker.data.n


async def settled(store: Store, unless: str = "") -> None:
    """Wait until nothing more has to be spilled, or this key has been found not to pickle.

    The result may be heard of before the thread that brought it has spilled.
    """
    while store.fast.exceeds_target() and unless not in store.logged_pickle_errors:
        await asyncio.sleep(0.01)
