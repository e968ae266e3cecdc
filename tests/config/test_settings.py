"""Dask's settings for workers and nannies, each where it takes effect."""

from __future__ import annotations

import os
import re
import sys
import types
from typing import Any
from unittest import mock

import dask
import distributed
import pytest
from dask.utils_test import inc
from distributed.core import Status
from distributed.utils_test import gen_cluster, gen_test
from tornado.httpclient import AsyncHTTPClient

import fastworker
from fastworker.config import number_of_threads
from support.beside_stock import WORKERS, as_stock
from support.in_process import cluster, gate, until

LIMITS = [
    ("transfer.message-bytes-limit", "3MB", "state.transfer_message_bytes_limit", 3_000_000),
    ("connections.outgoing", 7, "state.transfer_incoming_count_limit", 7),
    ("connections.incoming", 3, "transfer_outgoing_count_limit", 3),
    ("memory.transfer", 0.25, "state.transfer_incoming_bytes_limit", 250_000_000),
    ("memory.target", 0.41, "memory_manager.memory_target_fraction", 0.41),
    ("memory.spill", 0.42, "memory_manager.memory_spill_fraction", 0.42),
    ("memory.pause", 0.43, "memory_manager.memory_pause_fraction", 0.43),
    ("memory.max-spill", "5MB", "data.slow.data.max_weight", 5_000_000),
    ("memory.monitor-interval", "70ms", "periodic_callbacks.memory_monitor.callback_time", 70),
    ("profile.interval", "15ms", "periodic_callbacks.profile.callback_time", 15),
    ("profile.cycle", "2s", "periodic_callbacks.profile-cycle.callback_time", 2000),
    ("validate", True, "state.validate", True),
    ("resources", {"GPU": 2}, "state.total_resources.GPU", 2),
    ("lifetime.duration", "1 hour", "lifetime", 3600),
    ("lifetime.restart", True, "lifetime_restart", True),
]


def at(path, start):
    """What is at a path of attributes and items."""
    for name in path.split("."):
        start = start[name] if isinstance(start, dict) else getattr(start, name)
    return start


@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize("key, value, where, there", LIMITS, ids=[row[0] for row in LIMITS])
@gen_test()
async def test_where_a_setting_arrives(kind, key, value, where, there):
    async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s:
        settings = {"distributed.worker.profile.enabled": True, f"distributed.worker.{key}": value}
        with dask.config.set(settings):
            async with WORKERS[kind](s.address, memory_limit=10**9) as worker:
                assert at(where, worker) == there
                async with distributed.Client(s.address, asynchronous=True) as c:
                    resources = value if key == "resources" else None
                    assert await c.submit(inc, 1, resources=resources) == 2


@as_stock(config={"distributed.worker.profile.enabled": False})
async def test_without_profiles(c, s, a):
    assert "profile" not in a.periodic_callbacks
    with gate("without profiles") as runs:
        x = c.submit(runs.pass_through)
        await until(runs.entered.is_set)
        runs.opened.set()
        await x
    assert (await c.profile())["count"] == 0


@as_stock(
    config={
        "distributed.worker.profile.enabled": True,
        "distributed.worker.profile.low-level": True,
    }
)
async def test_low_level_profiles(c, s, a, *, monkeypatch):
    """What is below Python, by the package stacktrace, which few have."""
    frame = types.SimpleNamespace(name="native_function", addr=16, offset=0, is_python=False)
    package = types.SimpleNamespace(get_thread_stack=lambda ident, show_python: [frame])
    monkeypatch.setitem(sys.modules, "stacktrace", package)
    with gate("low level") as runs:
        x = c.submit(runs.pass_through)
        await until(lambda: "native_function" in str(a.profile_recent))
        runs.opened.set()
        await x


@as_stock(config={"distributed.worker.use-file-locking": False})
async def test_without_locks_on_files(c, s, a, *, tmp_path):
    async with type(a)(s.address, local_directory=str(tmp_path)):
        assert list(tmp_path.rglob("worker-*"))
        assert not list(tmp_path.rglob("*.dirlock"))


@as_stock(
    config={"distributed.worker.lifetime.duration": "10s", "distributed.worker.lifetime.stagger": 9}
)
async def test_lifetimes_are_staggered(c, s, a):
    assert 1 <= a.lifetime <= 19 and a.lifetime != 10


@cluster(nthreads=[])
async def test_a_worker_of_a_short_life(c, s):
    """It hands over what it holds, and leaves."""
    async with fastworker.Worker(s.address, nthreads=1) as stays:
        goes = await fastworker.Worker(s.address, nthreads=1, lifetime="500ms", name="short")
        x = c.submit(inc, 1, workers=["short"], allow_other_workers=True)
        await distributed.wait(x)
        await goes.finished()
        assert set(s.workers) == {stays.address}
        assert await x == 2


@as_stock(config={"distributed.worker.http.routes": ["distributed.http.health"]})
async def test_routes_that_are_configured(c, s, a):
    fetch = AsyncHTTPClient().fetch
    page = f"http://127.0.0.1:{a.http_server.port}"
    assert (await fetch(f"{page}/health")).body == b"ok"
    assert (await fetch(f"{page}/metrics", raise_error=False)).code == 404


@as_stock()
async def test_routes(c, s, a):
    pytest.importorskip("prometheus_client")
    fetch = AsyncHTTPClient().fetch
    page = f"http://127.0.0.1:{a.http_server.port}"
    assert (await fetch(f"{page}/health")).body == b"ok"
    assert b"dask_worker_tasks" in (await fetch(f"{page}/metrics")).body
    assert (await fetch(f"{page}/statics/css/base.css")).headers["Content-Type"] == "text/css"


@pytest.mark.parametrize("compression", ["zlib", None])
@cluster(nthreads=[])
async def test_compression_of_what_is_spilled(c, s, *, compression):
    settings = {
        "distributed.worker.memory.spill-compression": compression,
        "distributed.worker.memory.target": 0.01,
    }
    with dask.config.set(settings):
        async with fastworker.Worker(s.address, nthreads=1, memory_limit="10MB") as a:
            xs = c.map(lambda i: b"a" * 200_000, range(3), pure=False)
            await distributed.wait(xs)
            await until(lambda: not a.data.fast.exceeds_target())
            sizes = [a.data.slow.data.weight_by_key[key].disk for key in a.data.slow]
            assert sizes and (max(sizes) < 10_000) is (compression is not None)
            assert await c.gather(xs) == [b"a" * 200_000] * 3


@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 1)] * 2,
    Worker=fastworker.Worker,
    config={
        "distributed.worker.memory.rebalance.measure": "managed",
        "distributed.worker.memory.rebalance.sender-min": 0.0,
        "distributed.worker.memory.rebalance.recipient-max": 1.0,
        "distributed.worker.memory.rebalance.sender-recipient-gap": 0.0,
        "distributed.worker.memory.recent-to-old-time": "1ms",
    },
    worker_kwargs={"memory_limit": "100MB"},
)
async def test_rebalancing(c, s, a, b):
    """The scheduler's settings about the memory of workers."""
    xs = await c.scatter([bytes(1_000_000) for _ in range(10)], workers=[a.address], hash=False)
    await c.rebalance()
    assert len(b.data) == len(a.data) == 5
    assert [len(x) for x in await c.gather(xs)] == [1_000_000] * 10


@as_stock(nthreads=[])
async def test_adaptive(c, s):
    """A cluster of our workers grows with the work and shrinks to nothing without."""
    async with distributed.LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        worker_class=fastworker.Worker,
        asynchronous=True,
        dashboard_address=":0",
    ) as local:
        local.adapt(minimum=0, maximum=2, interval="20ms", wait_count=2)
        async with distributed.Client(local, asynchronous=True) as client:
            x = client.submit(inc, 1)
            assert await x == 2
            del x
            await until(lambda: not local.scheduler.workers)
            await until(lambda: all(w.status is Status.closed for w in local.workers.values()))


@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_active_memory_manager(c, s, a, b):
    """What is superfluous is dropped, and what is retired is copied."""
    (x,) = await c.scatter([123], broadcast=True)
    assert len(s.tasks[x.key].who_has) == 2
    await c.amm.run_once()
    await until(lambda: len(s.tasks[x.key].who_has) == 1)
    (holder,) = s.tasks[x.key].who_has
    await c.retire_workers([holder.address])
    assert await x == 123


# Nannies


PRELOAD = """
import click

@click.command()
@click.option("--mark")
def dask_setup(server, mark):
    server.preloaded = mark
"""


@gen_test()
async def test_settings_of_nannies(tmp_path):
    def look(dask_worker):
        import multiprocessing
        import os

        names = ("FROM_NANNY", "OMP_NUM_THREADS", "BEFORE_SPAWN")
        return (
            [os.environ.get(name) for name in names],
            dask_worker.preloaded,
            multiprocessing.current_process().daemon,
            type(dask_worker).__module__,
        )

    preload = tmp_path / "marks.py"
    preload.write_text(PRELOAD)
    settings = {
        "distributed.nanny.environ": {"FROM_NANNY": "1"},
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": "3", "BEFORE_SPAWN": "2"},
        "distributed.nanny.preload": [str(preload)],
        "distributed.nanny.preload-argv": ["--mark", "of nanny"],
        "distributed.worker.preload": [str(preload)],
        "distributed.worker.preload-argv": ["--mark", "of worker"],
        "distributed.worker.daemon": False,
        "distributed.worker.multiprocessing-method": "spawn",
    }
    with dask.config.set(settings), mock.patch.dict(os.environ):
        # An earlier nanny has left what it set before a spawn, and what is there already stays
        os.environ.pop("OMP_NUM_THREADS", None)
        async with (
            distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
            fastworker.Nanny(s.address, nthreads=1) as nanny,
            distributed.Client(s.address, asynchronous=True) as c,
        ):
            seen = (["1", "3", "2"], "of worker", False, "fastworker.worker")
            assert await c.run(look) == {nanny.worker_address: seen}
            assert nanny.preloaded == "of nanny"


@gen_test()
async def test_processes_of_a_fork_server():
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        async with (
            distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
            fastworker.Nanny(s.address, nthreads=1) as nanny,
            distributed.Client(s.address, asynchronous=True) as c,
        ):
            # The nanny is in this process, and the worker's parent is the fork server
            assert (await c.run(os.getppid))[nanny.worker_address] != os.getpid()
            assert await c.submit(inc, 1) == 2


@pytest.mark.parametrize(
    "value, error, message",
    [
        (1.5, ValueError, "nthreads must be a whole number, got 1.5"),
        (float("inf"), ValueError, "nthreads must be a whole number, got inf"),
        ("2", TypeError, "nthreads must be a whole number, got '2'"),
        (-1, ValueError, "nthreads must not be negative, got -1"),
    ],
)
def test_bad_numbers_of_threads(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        number_of_threads(value)


@cluster(nthreads=[])
async def test_whole_numbers_of_threads(c: Any, s: Any) -> None:
    """``cpu_count() / 2`` is a float."""
    async with fastworker.Worker(s.address, nthreads=2.0) as worker:
        assert type(worker.state.nthreads) is int
        assert await c.submit(int, 3) == 3
