"""Clusters for the stress tests: workers of 8 threads with little memory and hasty stealing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import distributed

import fastworker
from support import python_path

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
    with dask.config.set(CONFIG):
        async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as scheduler:
            started = [await start_process(scheduler.address, directory, str(i)) for i in range(n)]
            try:
                async with distributed.Client(scheduler.address, asynchronous=True) as client:
                    await asyncio.wait_for(client.wait_for_workers(n), 60)
                    yield client, list(scheduler.workers)
                    assert all(each.returncode is None for each in started), "a worker has died"
            finally:
                for each in started:
                    if each.returncode is None:
                        each.terminate()
                await asyncio.gather(*map(end, started))
                for i in range(n):
                    sys.stdout.write((directory / f"worker-{i}.log").read_text())


async def end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that has been told to end; if it does not, have it say where it hangs."""
    try:
        await asyncio.wait_for(process.wait(), 30)
    except asyncio.TimeoutError:
        process.send_signal(signal.SIGABRT)
        await process.wait()


async def start_process(address: str, directory: Path, name: str) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        **{
            "DASK_" + key.replace(".", "__").replace("-", "_").upper(): str(value)
            for key, value in {**CONFIG, **LOGS}.items()
        },
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": python_path(),
    }
    with (directory / f"worker-{name}.log").open("w") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else [])),
            *("-m", "fastworker", address, "--no-nanny", "--no-dashboard"),
            *("--nthreads", str(NTHREADS), "--memory-limit", str(MEMORY_LIMIT)),
            *("--host", "127.0.0.1", "--name", name, "--resources", "token=2"),
            *("--local-directory", str(directory)),
            env=environment,
            stdout=log,
            stderr=log,
        )
