"""What fastworker uses of distributed without a promise that it stays: there, under its name.

A version of distributed that has lost one of these fails here, with its name, and not in the log of
a user. Where fastworker can do without, it does.
"""

from __future__ import annotations

import distributed
import pytest
from distributed.cli import dask_worker
from distributed.utils_test import captured_logger

import fastworker
import fastworker.cli
from fastworker.control.ending import NANNYS_CHILD
from fastworker.scheduler import LowLatency, low_latency_client, needs
from support.in_process import ONE_WORKER, cluster

OF_WORKER = (
    *("_address", "_async_instructions", "_comms", "_dashboard", "_event_finished"),
    *("_finalize_metrics", "_get_cause", "_http_prefix", "_start_async_instruction", "_status"),
    *("_update_latency", "_update_metrics_received_data", "_workdir"),
)
OF_POOL = (
    *("_adjust_thread_count", "_counter", "_max_workers", "_rejoin_list", "_rejoin_lock"),
    *("_shutdown", "_shutdown_lock", "_thread_name_prefix", "_threads", "_work_queue"),
)


def lacking(owner, names):
    return [name for name in names if not hasattr(owner, name)]


@cluster(nthreads=ONE_WORKER, Worker=distributed.Worker)
async def test_of_a_worker(c, s, a):
    assert lacking(a, OF_WORKER) == []
    assert lacking(a.executor, OF_POOL) == []


@cluster(nthreads=[])
async def test_of_a_nanny(c, s):
    async with distributed.Nanny(s.address, nthreads=1) as nanny:
        assert lacking(nanny.rpc, ["_n_connecting"]) == []
        assert nanny.process.process._process.name == NANNYS_CHILD


def test_of_the_command():
    assert dask_worker.Nanny is distributed.Nanny


@cluster()
async def test_of_a_scheduler_and_a_client(c, s, a, b):
    needs.check(s, needs.OF_SCHEDULER)
    needs.check(c, needs.OF_CLIENT)


@cluster()
async def test_a_scheduler_that_the_lane_does_not_know(c, s, a, b, monkeypatch):
    monkeypatch.setattr(needs, "OF_SCHEDULER", ("of_old",))
    with pytest.raises(NotImplementedError, match=r"no Scheduler\.of_old, which"):
        await LowLatency().start(s)
    with captured_logger("fastworker.scheduler") as log:
        await fastworker.scheduler.dask_setup(s)
    assert "runs without the low-latency lane" in log.getvalue()
    assert LowLatency.name not in s.plugins


@cluster()
async def test_a_client_that_the_lane_does_not_know(c, s, a, b, monkeypatch):
    monkeypatch.setattr(needs, "OF_CLIENT", ("of_old",))
    with pytest.raises(NotImplementedError, match=r"no Client\.of_old, which"):
        low_latency_client(c)


@cluster(nthreads=[])
async def test_connections_that_are_not_counted(c, s, monkeypatch):
    """A nanny that waits says so all the same."""
    pool = distributed.core.ConnectionPool
    monkeypatch.setattr(pool, "_n_connecting", property(lambda pool: pool.of_old))
    async with fastworker.Nanny(s.address, nthreads=1) as nanny:
        assert nanny._connects()


def test_a_command_whose_nannies_cannot_be_chosen(monkeypatch):
    monkeypatch.delattr(dask_worker, "Nanny")
    with captured_logger("fastworker.cli") as log:
        with fastworker.cli._our_nannies():
            assert not hasattr(dask_worker, "Nanny")
    assert "cannot be told which nannies to start" in log.getvalue()
