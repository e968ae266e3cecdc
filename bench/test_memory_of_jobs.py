"""What memory workers take while they run a job, and what is left of it, stock's and ours in turn.

Each job has a cluster of its own: a scheduler and two worker processes with nannies, which set the
allocator up as they do for users. The workers have no dashboard: it loads bokeh into stock's alone
before the job begins, 18 MB a worker, and would hide as much that ours take more. The peak is the
largest resident memory that the kernel saw of each process, added up; what is left is looked at
some seconds after the job is done and its results are released. Of several rounds the worst one
counts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from distributed import Client

from clusters import OURS, STOCK, cluster
from memory_jobs import JOBS, Job
from versus import Record

pytestmark = [pytest.mark.timeout(600)]

MOST = 1.05
"""The target: the peak, and what is left, are at most so many times stock's. Spare memory is to be
given back by then."""

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


class Figures(NamedTuple):
    """Of all workers together."""

    peak: float  # MB
    left: float  # MB
    pauses: int


def pids_of(client: Client) -> set[int]:
    return set(client.run(os.getpid).values())


def pauses_of(client: Client) -> int:
    """How often workers have paused, as the scheduler has logged it."""
    events = [event for log in client.get_events().values() for _, event in log]
    return sum(
        event["action"] == "worker-status-change" and event["status"] == "paused"
        for event in events
        if isinstance(event, dict) and "action" in event
    )


def measure(job: Job, client: Client) -> Figures:
    """Run the job on its workers.

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
    return Figures(
        sum(memory_of(pid, "VmHWM") for pid in pids),
        sum(memory_of(pid, "VmRSS") for pid in pids),
        pauses_of(client),
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
    seen: dict[str, list[Figures]] = {"stock": [], "ours": []}
    for turn in range(rounds_of(record)):
        for side, command in (("stock", STOCK), ("ours", OURS)):
            with cluster(
                tmp_path,
                f"{side}-{turn}",
                [command] * 2,
                worker_options=["--no-dashboard"],
                memory_limit=job.memory_limit,
            ) as client:
                seen[side].append(measure(job, client))
    peaks = {side: max(each.peak for each in rounds) for side, rounds in seen.items()}
    left = {side: max(each.left for each in rounds) for side, rounds in seen.items()}
    # One more, as nothing is no figure to divide by
    pauses = {side: 1.0 + max(each.pauses for each in rounds) for side, rounds in seen.items()}
    record(f"job-memory/{name}", unit="MB", at_least=1 / MOST, judged=job.judged, **peaks)
    record(f"job-memory/{name}/left", unit="MB", at_least=1 / MOST, judged=job.judged, **left)
    if job.memory_limit != "0":
        record(f"job-pauses/{name}", unit="pauses+1", at_least=1.0, judged=False, **pauses)
