"""Work with known answers, on every way to start our workers and beside stock ones."""

from __future__ import annotations

import operator

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import wait

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import (
    add,
    array_of,
    checksum,
    frame_part,
    increment,
    where_it_ran,
)

RESULT_TIMEOUT = 60

# How each worker of a cluster is started: its kind and its options.
CLUSTERS = {
    "command": [("fastworker", "--no-nanny"), ("fastworker", "--no-nanny")],
    "worker-class-nanny-validating": [("worker-class", "--nworkers=2")],
    "mixed-with-stock": [
        ("fastworker", "--no-nanny"),
        ("stock", "--no-nanny"),
        ("worker-class", "--no-nanny"),
    ],
}


@pytest.fixture(scope="module", params=CLUSTERS)
def client(request, new_launcher):
    validating = request.param.endswith("validating")
    env = {"DASK_DISTRIBUTED__WORKER__VALIDATE": str(validating)}
    with new_launcher() as launcher:
        scheduler = launcher.scheduler()
        n_workers = 0
        for kind, *options in CLUSTERS[request.param]:
            launcher.worker(scheduler.address, "--nthreads=2", *options, kind=kind, env=env)
            n_workers += 2 if "--nworkers=2" in options else 1
        with launcher.client(scheduler, n_workers) as client:
            yield client


def test_map(client):
    futures = client.map(increment, range(500))
    assert collect(client, futures) == list(range(1, 501))


def test_work_reaches_every_worker(client):
    futures = client.map(where_it_ran, range(60), seconds=0.02, pure=False)
    assert set(collect(client, futures)) == set(client.scheduler_info()["workers"])


def test_tree_reduction(client):
    level = client.map(increment, range(256))
    while len(level) > 1:
        level = client.map(operator.add, level[::2], level[1::2])
    assert level[0].result(timeout=RESULT_TIMEOUT) == sum(range(1, 257))


def test_wide_fan_in_and_out(client):
    root = client.submit(increment, 0)
    middle = [client.submit(operator.add, root, i, pure=False) for i in range(200)]
    total = client.submit(add, *middle)
    assert total.result(timeout=RESULT_TIMEOUT) == sum(range(1, 201))


def test_delayed_graph(client):
    @dask.delayed
    def scaled(x, factor):
        return x * factor

    parts = [scaled(i, factor=2) for i in range(40)]
    combined = dask.delayed(sum)([scaled(p, factor=3) for p in parts])
    assert client.compute(combined).result(timeout=RESULT_TIMEOUT) == 6 * sum(range(40))


def test_array(client):
    x = da.arange(1_000_000, chunks=50_000).reshape(1000, 1000).rechunk((250, 250))
    result = client.compute((x + x.T).rechunk((1000, 100)).sum(axis=0))
    expected = np.arange(1_000_000).reshape(1000, 1000)
    np.testing.assert_array_equal(
        result.result(timeout=RESULT_TIMEOUT), (expected + expected.T).sum(axis=0)
    )


def test_large_arrays_cross_workers(client):
    """20 MB each, made on one worker and read on the other ones."""
    first, *others = client.scheduler_info()["workers"]
    made = [client.submit(array_of, 20, seed, workers=first) for seed in range(4)]
    found = [
        client.submit(checksum, array, workers=others[i % len(others)])
        for i, array in enumerate(made)
    ]
    expected = [checksum(array_of(20, seed)) for seed in range(4)]
    assert collect(client, found) == expected


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_dataframe_shuffle(client, method):
    rows, parts = 2000, 8
    frame = dd.from_map(frame_part, range(parts), rows=rows, meta=frame_part(0, 1))
    with dask.config.set({"dataframe.shuffle.method": method}):
        shuffled = frame.shuffle("key", npartitions=6)
        rows_of = shuffled.map_partitions(lambda part: pd.Series([len(part)]), meta=(None, "i8"))
        sums = shuffled.groupby("key").value.sum()
        n_rows, sums = (
            future.result(timeout=RESULT_TIMEOUT) for future in client.compute([rows_of, sums])
        )
    local = pd.concat([frame_part(i, rows) for i in range(parts)])
    assert n_rows.sum() == len(local)
    pd.testing.assert_series_equal(
        sums.sort_index(), local.groupby("key").value.sum(), check_index_type=False
    )


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_dataframe_merge(client, method):
    rows, parts = 500, 6
    left = dd.from_map(frame_part, range(parts), rows=rows, meta=frame_part(0, 1))
    right = dd.from_map(frame_part, range(100, 100 + parts), rows=rows, meta=frame_part(0, 1))
    with dask.config.set({"dataframe.shuffle.method": method}):
        merged = left.merge(right, on="key", shuffle_method=method)
        merged = client.compute((merged.value_x - merged.value_y).sum())
    local = pd.merge(
        pd.concat([frame_part(i, rows) for i in range(parts)]),
        pd.concat([frame_part(i, rows) for i in range(100, 100 + parts)]),
        on="key",
    )
    assert merged.result(timeout=RESULT_TIMEOUT) == (local.value_x - local.value_y).sum()


def test_nothing_is_left_behind(client):
    """Released keys leave the workers: neither data nor tasks remain."""
    futures = client.map(increment, range(1000, 1100))
    total = client.submit(add, *futures)
    wait(total, timeout=RESULT_TIMEOUT)
    del futures, total

    def remains(dask_worker):
        return len(dask_worker.state.tasks) + len(dask_worker.data)

    wait_for(lambda: not any(client.run(remains).values()), 20, "workers forget released tasks")
