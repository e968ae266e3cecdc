"""What memory workers take while they run a job, and what is left of it, stock's and ours in turn.

Each job has a cluster of its own: a scheduler and two worker processes with nannies, which set the
allocator up as they do for users. The peak is the largest resident memory that the kernel saw of
each process, added up; what is left is looked at some seconds after the job is done and its results
are released.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from clusters import OURS, STOCK, cluster
from conftest import Record
from distributed import Client
from memory_jobs import JOBS, Job

pytestmark = [pytest.mark.timeout(600)]

MOST = 1.05
"""The target: the peak is at most so many times stock's."""

SETTLE = 1.0
"""Seconds that a worker is given before its job begins."""
LEFT_AFTER = 3.0
"""Seconds after a job at which to look at what is left of it."""


def memory_of(pid: int, field: str) -> float:
    """Megabytes, by a field of the process's status: VmHWM (peak) or VmRSS (now)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no {field}")


def pids_of(client: Client) -> set[int]:
    return set(client.run(os.getpid).values())


def measure(job: Job, client: Client) -> tuple[float, float]:
    """Megabytes of all workers: at the peak, and what is left.

    Raises RuntimeError if a worker did not live to the end.
    """
    pids = pids_of(client)
    time.sleep(SETTLE)
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    job.run(client)
    time.sleep(LEFT_AFTER)
    if pids_of(client) != pids:
        raise RuntimeError("a worker was killed")
    return (
        sum(memory_of(pid, "VmHWM") for pid in pids),
        sum(memory_of(pid, "VmRSS") for pid in pids),
    )


def rounds_of(record: Record) -> int:
    return 1 if record.short else 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for peaks of memory")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if job.quick else [pytest.mark.slow]) for n, job in JOBS.items()],
)
def test_memory(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    job = JOBS[name]
    pytest.importorskip(job.needs)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import the jobs
    for variable, value in job.config.items():
        monkeypatch.setenv(variable, value)
    peaks: dict[str, list[float]] = {"stock": [], "ours": []}
    left: dict[str, list[float]] = {"stock": [], "ours": []}
    for turn in range(rounds_of(record)):
        for side, command in (("stock", STOCK), ("ours", OURS)):
            with cluster(
                tmp_path, f"{side}-{turn}", [command] * 2, memory_limit=job.memory_limit
            ) as client:
                peak, rest = measure(job, client)
            peaks[side].append(peak)
            left[side].append(rest)
    best_peaks = {side: min(figures) for side, figures in peaks.items()}
    best_left = {side: min(figures) for side, figures in left.items()}
    record(f"job-memory/{name}", unit="MB", at_least=1 / MOST, judged=job.judged, **best_peaks)
    record(f"job-memory/{name}/left", unit="MB", judged=False, **best_left)
