"""Whole worker processes, stock's ``dask worker`` and ``fastworker`` in turn.

Unlike the core's benchmarks these include what fastworker still shares with stock: comms,
serialisation, the event loop, the thread pool.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from standin import OUR_WORKER, STOCK_WORKER, worker
from versus import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = 2_000
PINGS = 300


async def visit(command: list[str], directory: Path) -> dict[str, float]:
    """Start one worker and measure it, in the units below."""
    async with worker(command, directory) as peer:
        await asyncio.sleep(1)  # what follows a registration is not the flood's cost
        await peer.flood(TASKS // 4)
        floods = [await peer.flood(TASKS) for _ in range(3)]
        await peer.ping(PINGS // 10)
        return {
            "start-cpu": 1e3 * peer.start_cpu,
            "flood-wall": 1e6 * min(wall for wall, _ in floods) / TASKS,
            "flood-cpu": 1e6 * min(cpu for _, cpu in floods) / TASKS,
            "ping": 1e6 * await peer.ping(PINGS),
        }


UNITS = {"start-cpu": "ms", "flood-wall": "us/task", "flood-cpu": "us/task", "ping": "us/task"}


def test_flood_and_ping(record: Record, tmp_path: Path) -> None:
    """No-op tasks: 2,000 at once, and 300 one after another."""
    visits: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    for _ in range(1 if record.short else 3):
        visits["stock"].append(asyncio.run(visit(STOCK_WORKER, tmp_path)))
        visits["ours"].append(asyncio.run(visit(OUR_WORKER, tmp_path)))
    for name, unit in UNITS.items():
        best = {side: min(v[name] for v in seen) for side, seen in visits.items()}
        record(f"worker/{name}", unit=unit, **best)


async def idle_mb(command: list[str], directory: Path) -> float:
    """Megabytes that a worker with nothing to do has resident, some seconds after its start."""
    async with worker(command, directory) as peer:
        await asyncio.sleep(3)
        return float(peer.process.memory_info().rss) / 1e6


def test_idle_memory(record: Record, tmp_path: Path) -> None:
    """As started by default, and without a dashboard, which is also what there is without bokeh."""
    for name, left_out in (("idle-rss", ["--no-dashboard"]), ("idle-rss-no-dashboard", [])):
        best = {"stock": float("inf"), "ours": float("inf")}
        for _ in range(1 if record.short else 3):
            for side, command in (("stock", STOCK_WORKER), ("ours", OUR_WORKER)):
                command = [part for part in command if part not in left_out]
                best[side] = min(best[side], asyncio.run(idle_mb(command, tmp_path)))
        target = {"at_least": 1.0} if name == "idle-rss" else {}
        record(f"worker/{name}", unit="MB", **best, **target)


def import_ms(module: str, directory: Path) -> float:
    """CPU milliseconds of a new interpreter that imports the worker class."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", f"from {module} import Worker"],
        check=True,
        cwd=directory,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def test_import(record: Record, tmp_path: Path) -> None:
    best = {"stock": float("inf"), "ours": float("inf")}
    for _ in range(3 if record.short else 7):
        for side, module in (("stock", "distributed"), ("ours", "fastworker")):
            best[side] = min(best[side], import_ms(module, tmp_path))
    record("worker/import-cpu", unit="ms", **best)
