"""Spill files that are gone, cut short or cannot be read, and disks that are full.

distributed's worker closes when it is to remove a file that is gone, and answers for ever with
errors when it is asked for one that it cannot read. Ours has the scheduler compute it again.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import wait
from distributed.client import FutureCancelledError
from distributed.utils_test import captured_logger, gen_cluster

import fastworker
from fastworker.data.disk import Disk, SpillFileLost
from fastworker.data.store import Store
from support.blobs import Blob
from support.in_process import gate, until
from support.spilling import KIB, SPILLING, first_byte, make, settled


def remove(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def make_unreadable(file: Path) -> None:
    """Root may read any file, so it is a directory from now on."""
    file.unlink()
    file.mkdir()


in_every_way = pytest.mark.parametrize("lose", [remove, cut_short, make_unreadable])

lossy = gen_cluster(
    client=True,
    Worker=fastworker.Worker,
    worker_kwargs={"memory_limit": 1000 * KIB},
    config=SPILLING,
    timeout=60,
)


async def spilled_results(client: Any, worker: Any) -> list[Any]:
    """30 results on one worker, of which 20 are on disk, behind a name each."""
    futures = client.map(make, range(30), workers=[worker.address], allow_other_workers=True)
    await wait(futures)
    await settled(worker.data)
    assert len(worker.data.disk) >= 15
    return futures


def lose_all(worker: Any, lose: Callable[[Path], None]) -> int:
    files = list(Path(worker.data.slow.data.d.directory).iterdir())
    for file in files:
        lose(file)
    return len(files)


@in_every_way
@lossy
async def test_gathered(c: Any, s: Any, a: Any, b: Any, lose: Callable[[Path], None]) -> None:
    futures = await spilled_results(c, a)
    with captured_logger("fastworker.data") as log:
        count = lose_all(a, lose)
        assert await asyncio.wait_for(c.gather(futures), 30) == [make(i) for i in range(30)]
    assert log.getvalue().count("A result is lost") >= count
    assert "The scheduler has it computed again" in log.getvalue()
    assert a.status.name == "running"


@in_every_way
@pytest.mark.parametrize("elsewhere", [False, True])
@lossy
async def test_inputs(
    c: Any, s: Any, a: Any, b: Any, lose: Callable[[Path], None], elsewhere: bool
) -> None:
    """Of tasks on the same worker, and of tasks on another one."""
    futures = await spilled_results(c, a)
    lose_all(a, lose)
    where = [(b if elsewhere else a).address]
    firsts = c.map(first_byte, futures, workers=where)
    assert await asyncio.wait_for(c.gather(firsts), 30) == list(range(30))


@lossy
async def test_input_with_a_copy_elsewhere(c: Any, s: Any, a: Any, b: Any) -> None:
    """The scheduler need not compute it again, and so does not take back the task that needs it."""
    futures = await spilled_results(c, a)
    await c.replicate(futures, n=2)
    await settled(a.data)
    computed = len([1 for ts in s.tasks.values() for e in s.story(ts.key) if e[2] == "memory"])
    lose_all(a, remove)
    firsts = c.map(first_byte, futures, workers=[a.address])
    assert await asyncio.wait_for(c.gather(firsts), 30) == list(range(30))
    again = [1 for f in futures for e in s.story(f.key) if e[2] == "memory"]
    assert len(again) == computed


@lossy
async def test_scattered(c: Any, s: Any, a: Any, b: Any) -> None:
    """What cannot be computed again is lost to the clients that want it, and nothing else is."""
    futures = await c.scatter([make(i) for i in range(30)], workers=[a.address], hash=False)
    await settled(a.data)
    kept = [f for f in futures if f.key in a.data.memory]
    lost = [f for f in futures if f.key not in a.data.memory]
    lose_all(a, remove)
    for future in lost[:3]:
        with pytest.raises(FutureCancelledError):
            await asyncio.wait_for(c.gather(future), 30)
    assert len(await c.gather(kept)) == len(kept)
    assert a.status.name == "running"


@in_every_way
@lossy
async def test_released(c: Any, s: Any, a: Any, b: Any, lose: Callable[[Path], None]) -> None:
    futures = await spilled_results(c, a)
    lose_all(a, lose)
    del futures
    while a.data:
        await asyncio.sleep(0.01)
    assert a.data.spilled_total == (0, 0)
    assert await c.submit(first_byte, make(7), workers=[a.address]) == 7


@lossy
async def test_by_hand(c: Any, s: Any, a: Any, b: Any) -> None:
    """The scheduler knows nothing of a task that was added by hand, which fails."""
    futures = await spilled_results(c, a)
    lost = next(f for f in futures if f.key not in a.data.memory)
    lose_all(a, remove)
    with captured_logger("distributed.worker") as log:
        a.add_task("mine", 0, {lost.key: []}, first_byte, (lost.key,))
        while "mine" not in a.state.tasks or a.state.tasks["mine"].state != "error":
            await asyncio.sleep(0.01)
    assert "SpillFileLost" in log.getvalue()


@lossy
async def test_by_hand_and_not_begun(c: Any, s: Any, a: Any, b: Any) -> None:
    """Tasks that were added by hand fail at once, and those of the scheduler's run elsewhere."""
    futures = await spilled_results(c, a)
    lost = next(f for f in futures if f.key not in a.data.memory)
    with gate("blocker") as blocking:
        blocker = c.submit(blocking.pass_through, workers=[a.address], pure=False)
        await until(blocking.entered.is_set)
        a.add_task("mine", 0, {lost.key: []}, first_byte, (lost.key,))
        lose_all(a, remove)
        assert a.state.tasks["mine"].state == "ready"
        with pytest.raises(SpillFileLost):
            a.data[lost.key]
        await until(lambda: a.state.tasks["mine"].state == "error")
        assert "cannot be read" in a.state.tasks["mine"].exception_text
        a.state.validate_state()
        blocking.opened.set()
        await blocker


def test_reads_that_fail_are_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"), 100)
    told: list[SpillFileLost] = []
    store.on_lost = told.append
    store["x"] = Blob("x", 400)
    remove(*(tmp_path / "s").iterdir())
    with pytest.raises(SpillFileLost, match=r"spill file of 'x' cannot be read: .*No such file"):
        store["x"]
    assert store.get_many(["x", "y"]) == {}
    assert [error.key for error in told] == ["x", "x"]
    del store["x"]
    assert not store and store.spilled_total == (0, 0)


def test_directory_is_gone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"), 100)
    shutil.rmtree(tmp_path / "s")
    store["x"] = Blob("x", 400)
    assert "x" in store.disk and store["x"].nbytes == 400


def test_full_disk_keeps_nothing(tmp_path: Path) -> None:
    """What was written before there was no room any more is removed."""
    disk = Disk(str(tmp_path / "s"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            disk["x"] = b"x" * 1000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "s").iterdir())
    assert "x" not in disk and disk.total_weight == (0, 0)
    disk["x"] = b"x" * 1000
    assert disk["x"] == b"x" * 1000
