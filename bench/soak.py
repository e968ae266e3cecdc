"""Millions of tiny tasks on one worker process: its memory stays flat and it does not slow down.

    sh ci/soak [TASKS] [--command "COMMAND OF A WORKER"]
    sh ci/soak mixed [MINUTES]      see soak_mixed

The tasks come in waves from a stand-in for the scheduler, and their keys are freed after each.
Prints the worker's resident memory and CPU time every 100,000 tasks. Exits with 1 if, after the
first 100,000, the memory grows by more than it may or the CPU time a task does.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import soak_mixed
from standin import OUR_WORKER, worker

WAVE = 10_000
STEP = 100_000

#: By how many MiB the resident memory may grow after the first step. Memory that comes and goes
#: leaves the allocator with some more of it than before.
MAX_GROWTH = 4.0

#: How much more CPU time a task may take in the last fifth of the steps than in the first fifth.
#: Other processes make it waver by a tenth or two on a shared machine.
MAX_SLOWDOWN = 1.3


async def soak(tasks: int, command: list[str]) -> bool:
    """Run so many tasks, rounded up to whole steps; whether all was well."""
    memory: list[float] = []
    costs: list[float] = []
    print(f"{'tasks':>10} {'RSS MiB':>9} {'CPU us/task':>12} {'wall us/task':>13}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        async with worker(command, Path(directory)) as peer:
            for done in range(STEP, tasks + STEP, STEP):
                cpu, wall = peer.cpu(), time.perf_counter()
                for _ in range(STEP // WAVE):
                    await peer.flood(WAVE)
                costs.append((peer.cpu() - cpu) / STEP * 1e6)
                memory.append(peer.process.memory_info().rss / 2**20)
                wall = (time.perf_counter() - wall) / STEP * 1e6
                print(f"{done:>10} {memory[-1]:>9.2f} {costs[-1]:>12.2f} {wall:>13.2f}", flush=True)
    fifth = max(1, len(costs) // 5)
    growth = max(memory) - memory[0]
    slowdown = statistics.median(costs[-fifth:]) / statistics.median(costs[:fifth])
    print(f"memory after the first {STEP} tasks: {growth:+.2f} MiB (up to {MAX_GROWTH:+} allowed)")
    print(f"CPU a task, last fifth to first: {slowdown:.2f} (up to {MAX_SLOWDOWN} allowed)")
    return growth <= MAX_GROWTH and slowdown <= MAX_SLOWDOWN


def main() -> int:
    if sys.argv[1:2] == ["mixed"]:
        return soak_mixed.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tasks", nargs="?", type=int, default=5_000_000)
    parser.add_argument("--command", type=shlex.split, default=OUR_WORKER)
    options = parser.parse_args()
    if options.tasks < 2 * STEP:
        parser.error(f"fewer than {2 * STEP} tasks say nothing")
    return 0 if asyncio.run(soak(options.tasks, options.command)) else 1


if __name__ == "__main__":
    sys.exit(main())
