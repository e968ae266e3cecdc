"""Clusters for the stress tests: workers of 8 threads with little memory and hasty stealing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import distributed

import fastworker
from fastworker.demo.launcher import Process
from support.cluster.launcher import Launcher

NTHREADS = 8

CONFIG: dict[str, Any] = {
    "distributed.scheduler.work-stealing-interval": "10ms",
    "distributed.worker.memory.target": 0.01,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # What the scheduler keeps of its messages would keep users' objects alive
    "distributed.admin.low-level-log-length": 0,
    "distributed.admin.tick.limit": "1h",
    # distributed looks at the stack of the event loop with sys._current_frames(), which may crash
    # CPython 3.11 when garbage is collected in it
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 100,
}
#: For workers: they are to have logs, long enough to be full soon.
LOGS = {"distributed.admin.low-level-log-length": 500}

#: With the target above, 500 kB of results stay in memory.
MEMORY_LIMIT = 50_000_000


@asynccontextmanager
async def here(directory: Path, validate: bool) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A scheduler and two workers in this process: an asynchronous client, and the workers."""
    with dask.config.set(CONFIG):
        async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as scheduler:
            with dask.config.set(LOGS):
                workers = [
                    fastworker.Worker(
                        scheduler.address,
                        nthreads=NTHREADS,
                        name=name,
                        memory_limit=MEMORY_LIMIT,
                        local_directory=str(directory),
                        resources={"token": 2},
                        validate=validate,
                        dashboard=False,
                        host="127.0.0.1",
                    )
                    for name in ("a", "b")
                ]
            async with workers[0], workers[1]:
                async with distributed.Client(scheduler.address, asynchronous=True) as client:
                    yield client, workers


@asynccontextmanager
async def processes(directory: Path, n: int) -> AsyncIterator[tuple[Any, list[str]]]:
    """A scheduler here and workers in processes of their own: a client, and their addresses."""
    with dask.config.set(CONFIG), Launcher(directory, environment()) as launcher:
        async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as scheduler:
            for i in range(n):
                launcher.worker(
                    scheduler.address,
                    *("--no-nanny", "--no-dashboard", "--name", str(i)),
                    *("--nthreads", str(NTHREADS), "--memory-limit", str(MEMORY_LIMIT)),
                    *("--resources", "token=2"),
                )
            try:
                async with distributed.Client(scheduler.address, asynchronous=True) as client:
                    await asyncio.wait_for(client.wait_for_workers(n), 60)
                    yield client, list(scheduler.workers)
                    launcher.check_running()
            finally:
                for process in launcher.processes:
                    process.ask_to_stop()
                await asyncio.gather(*map(end, launcher.processes))
                for process in launcher.processes:
                    sys.stdout.write(process.text())


async def end(process: Process) -> None:
    """Wait for a process that has been told to end; if it does not, have it say where it hangs."""
    try:
        await asyncio.to_thread(process.wait, 30)
    except TimeoutError:
        process.signal(signal.SIGABRT)
        await asyncio.to_thread(process.wait, 30)


def environment() -> dict[str, str]:
    """The configuration above, and Python's development mode where this process has it."""
    variables = {
        "DASK_" + key.replace(".", "__").replace("-", "_").upper(): str(value)
        for key, value in {**CONFIG, **LOGS}.items()
    }
    return {**variables, "PYTHONDEVMODE": "1"} if sys.flags.dev_mode else variables
