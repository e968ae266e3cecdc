"""Jobs as users have them, for looking at what memory their workers take meanwhile.

A job takes a client of a cluster of two workers with a thread each, called w0 and w1. It returns
when it is done, and holds nothing of it any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import dask
import numpy as np
from distributed import Client, wait

PATIENCE = 120.0
"""Seconds after which a job that is not done is an error."""

MB = 1_000_000
MEMORY_LIMIT = "500MB"


class Job(NamedTuple):
    """What to run, and on what workers.

    ``memory_limit`` is that of each worker; "0" for none. ``config`` is Dask's for the workers,
    by environment variables. A job that is ``quick`` is part of short runs. One that is not
    ``judged`` is for information: its figure depends on when the garbage collector comes, or on how
    much of a round is computed before the client, 10 ms later, releases the round before.
    """

    run: Callable[[Client], object]
    memory_limit: str = "0"
    config: dict[str, str] = {}
    quick: bool = False
    judged: bool = True
    needs: str = "numpy"


def ones(nbytes: int) -> Any:
    return np.ones(nbytes // 8)


def temporary(i: int) -> float:
    return float((np.full(24 * MB // 8, float(i)) + 1).sum()) + float(ones(24 * MB).sum())


def pandas_temporary(i: int) -> float:
    import pandas as pd

    frame = pd.DataFrame({"k": np.arange(400_000) % 100, "v": np.full(400_000, float(i))})
    return float(frame.merge(frame.groupby("k").v.mean().rename("m"), on="k").m.sum())


def frame_of(i: int) -> Any:
    import pandas as pd

    return pd.DataFrame({f"c{j}": np.full(40 * MB // 80, float(i + j)) for j in range(10)})


def first_sum(frame: Any) -> float:
    return float(frame["c0"].sum())


def fail(i: int) -> None:
    held = ones(48 * MB)
    raise ValueError(f"{i}: {held.sum()}")


def allocate(nbytes: int) -> float:
    held = ones(nbytes)
    time.sleep(0.3)
    return float(held[0])


def numpy_temporaries(client: Client) -> None:
    client.gather(client.map(temporary, range(100), pure=False))


def pandas_temporaries(client: Client) -> None:
    client.gather(client.map(pandas_temporary, range(60), pure=False))


def array_product(client: Client) -> None:
    import dask.array as da

    x = da.random.default_rng(0).normal(size=(4000, 4000), chunks=(1000, 1000))
    (x @ x.T).std().compute()


def array_rechunk(client: Client) -> None:
    import dask.array as da

    x = da.random.default_rng(0).normal(size=(4000, 4000), chunks=(4000, 400))
    x.rechunk((400, 4000)).std(axis=1).sum().compute()


def shuffle(method: str) -> Callable[[Client], None]:
    def run(client: Client) -> None:
        frame = dask.datasets.timeseries(
            end="2000-01-21", freq="1s", partition_freq="1D", seed=1, dtypes={"id": int, "x": float}
        )
        frame.shuffle("id", shuffle_method=method).x.sum().compute()

    return run


def failures(client: Client) -> None:
    futures = client.map(fail, range(100), pure=False)
    wait(futures, PATIENCE)
    assert {type(future.exception()) for future in futures} == {ValueError}


def transfers(client: Client) -> None:
    for _ in range(10):
        there = client.map(ones, [20 * MB] * 4, workers="w0", pure=False)
        here = client.map(np.sum, there, workers="w1", pure=False)
        client.gather(here)


def transfers_apart(client: Client) -> None:
    """The same, but no round begins before the results of the last one are gone."""
    for _ in range(10):
        there = client.map(ones, [20 * MB] * 4, workers="w0", pure=False)
        client.gather(client.map(np.sum, there, workers="w1", pure=False))
        del there
        while any(client.run(lambda dask_worker: len(dask_worker.data)).values()):
            time.sleep(0.01)


def served_and_released(client: Client) -> None:
    for i in range(25):
        frame = client.submit(frame_of, i, workers="w0", pure=False)
        client.submit(first_sum, frame, workers="w1", pure=False).result(PATIENCE)
        del frame


def fetched_then_allocated(client: Client) -> None:
    for _ in range(3):
        fetched = client.submit(ones, 100 * MB, workers="w0", pure=False)
        client.submit(np.sum, fetched, workers="w1", pure=False).result(PATIENCE)
        del fetched
        time.sleep(0.4)
        client.submit(allocate, 270 * MB, workers="w1", pure=False).result(PATIENCE)


def spilling(client: Client) -> None:
    kept = client.map(ones, [32 * MB] * 40, pure=False)
    wait(kept, PATIENCE)
    client.gather(client.map(np.sum, kept, pure=False))


def many_small(client: Client) -> None:
    kept = client.map(pow, range(5_000), [2] * 5_000, pure=False)
    client.gather(kept)


SPILL_COMPRESSED = {"DASK_DISTRIBUTED__WORKER__MEMORY__SPILL_COMPRESSION": "lz4"}

JOBS: dict[str, Job] = {
    "numpy-temporaries": Job(numpy_temporaries, quick=True),
    "pandas-temporaries": Job(pandas_temporaries, needs="pandas"),
    "array-product": Job(array_product),
    "array-rechunk": Job(array_rechunk),
    "shuffle-p2p": Job(shuffle("p2p"), needs="pyarrow"),
    "shuffle-tasks": Job(shuffle("tasks"), needs="pyarrow"),
    "failures": Job(failures, judged=False),
    "transfers": Job(transfers, quick=True, judged=False),
    "transfers-apart": Job(transfers_apart, quick=True),
    "served-and-released": Job(
        served_and_released, memory_limit=MEMORY_LIMIT, quick=True, needs="pandas"
    ),
    "fetched-then-allocated": Job(fetched_then_allocated, memory_limit=MEMORY_LIMIT),
    "spilling": Job(spilling, memory_limit=MEMORY_LIMIT),
    "spilling-compressed": Job(
        spilling, memory_limit=MEMORY_LIMIT, config=SPILL_COMPRESSED, needs="lz4"
    ),
    "many-small": Job(many_small),
}
