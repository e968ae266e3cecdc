"""Spare memory: how much a worker keeps, and that it never counts against the worker."""

from __future__ import annotations

import asyncio
import gc
import weakref

import dask
import distributed
import pytest

import fastworker
from fastworker.comm.arena import Block, bytes_kept, keep_at_most
from fastworker.comm.spare import SpareMemory

MIB = 1 << 20
FRACTIONS = (0.6, 0.7, 0.8, 0.95)


@pytest.fixture(autouse=True)
def nothing_kept():
    keep_at_most(0)
    yield
    keep_at_most(0)


@pytest.fixture
def fifty():
    with dask.config.set({"fastworker.comm.spare-memory": "50 MiB"}):
        yield


class Process:
    """A process of ``used`` bytes beside its spare memory."""

    def __init__(self, used):
        self.used = used

    def memory(self):
        return self.used + bytes_kept()


def spare_of(process, limit, fractions=FRACTIONS):
    return SpareMemory(process.memory, limit, fractions)


def free_some(nbytes):
    """What becomes of a piece that is not in use any more."""
    Block(nbytes)
    return bytes_kept()


@pytest.mark.parametrize("limit", [8000 * MIB, None])
def test_how_much(limit):
    """A 32nd of what the process takes besides, so that it is little of a job's peak."""
    process = Process(320 * MIB)
    spare = spare_of(process, limit)
    assert spare.measure() == 320 * MIB
    assert free_some(11 * MIB) == 0
    for size in (5, 3, 2):
        free_some(size * MIB)
    assert bytes_kept() == 10 * MIB
    assert spare.measure() == 330 * MIB  # it is not counted itself
    assert free_some(MIB) == 6 * MIB  # the oldest went
    process.used = 3200 * MIB
    spare.measure()
    assert free_some(90 * MIB) == 96 * MIB
    process.used = 320 * MIB
    assert spare.measure() == 320 * MIB
    with dask.config.set({"fastworker.comm.spare-memory": "20 MiB"}):
        assert spare_of(process, limit).measure() == 320 * MIB
    assert free_some(21 * MIB) == 0
    assert free_some(20 * MIB) == 20 * MIB


@pytest.mark.parametrize(
    ("fractions", "full"),
    [
        (FRACTIONS, 600),
        ((False, 0.7, 0.8, 0.95), 700),
        ((False, False, 0.8, False), 800),
        ((None, False, False, False), 1000),
        ((0.9, 0.7, 0.8, 0.95), 700),
    ],
)
def test_up_to_which_threshold(fractions, full):
    process = Process(0)
    assert spare_of(process, 1000, fractions).full == pytest.approx(full)
    assert spare_of(process, None, fractions).full is None


@pytest.mark.usefixtures("fifty")
def test_it_is_given_back_when_the_process_grows():
    process = Process(100 * MIB)
    spare = spare_of(process, 1000 * MIB)
    assert spare.measure() == 100 * MIB
    assert free_some(40 * MIB) == 40 * MIB
    assert spare.measure() == 140 * MIB
    process.used = 565 * MIB  # 35 MiB are left below the target
    assert spare.measure() == 565 * MIB
    assert bytes_kept() == 0
    assert free_some(40 * MIB) == 0
    assert free_some(30 * MIB) == 30 * MIB
    assert spare.measure() == 595 * MIB
    process.used = 900 * MIB
    assert spare.measure() == 900 * MIB
    assert free_some(MIB) == 0
    process.used = 100 * MIB
    spare.measure()
    assert free_some(40 * MIB) == 40 * MIB


@pytest.mark.usefixtures("fifty")
def test_without_a_limit_it_is_all_the_same_how_large_the_process_is():
    process = Process(1 << 50)
    spare = spare_of(process, None)
    spare.measure()
    assert free_some(2 * MIB) == 2 * MIB
    assert spare.measure() == (1 << 50) + 2 * MIB


@pytest.mark.usefixtures("fifty")
@pytest.mark.parametrize("memory_limit", ["100 MB", "100 GB"])
def test_a_worker_measures_without_what_is_spare(memory_limit):
    """Both monitors do, and the worker's last one gives all of it back."""

    async def main():
        with dask.config.set({"distributed.worker.memory.pause": False}):
            async with (
                distributed.Scheduler(dashboard_address=None, host="127.0.0.1", port=0) as s,
                fastworker.Worker(s.address, memory_limit=memory_limit) as worker,
            ):
                little = worker.memory_manager.memory_limit < 1 << 30
                for look in (worker.monitor.update, worker.monitor.get_process_memory):
                    keep_at_most(64 * MIB)
                    assert free_some(10 * MIB) == 10 * MIB
                    look()
                    assert bytes_kept() == (0 if little else 10 * MIB)
            assert bytes_kept() == 0

    asyncio.run(main())


def test_it_stands_in_no_cycle():
    process = Process(0)
    process.measure = spare_of(process, None).measure
    gone = weakref.ref(process)
    gc.disable()
    try:
        del process
        assert gone() is None
    finally:
        gc.enable()


def test_a_process_without_workers_keeps_nothing():
    assert free_some(4 * MIB) == 0
