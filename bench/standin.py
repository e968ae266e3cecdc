"""A stand-in for the scheduler, so that a worker process can be measured alone.

It lets one worker register, answers its heartbeats and hands it tasks that do next to nothing. It
costs far less than a scheduler, so what is measured is the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
from dask._task_spec import Task
from distributed.comm import Comm, listen
from distributed.comm.core import CommClosedError
from distributed.protocol.serialize import ToPickle

from fastworker.demo.launcher import Process
from machines import fresh_keys
from support.wire.messages import compute_task

PATIENCE = 60.0
"""Seconds after which something that does not happen is an error."""


class Peer:
    """A worker process that has registered here."""

    def __init__(self, comm: Comm, pid: int) -> None:
        self.comm = comm
        self.process = psutil.Process(pid)
        self.start_cpu = self.cpu()

    def cpu(self) -> float:
        """CPU seconds, user and system, since the process began."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    async def finish(self, keys: list[str]) -> None:
        """Read until every one of `keys` is reported as finished; an erred one raises."""
        left = set(keys)
        while left:
            for msg in await asyncio.wait_for(self.comm.read(), PATIENCE):
                if msg["op"] == "task-finished":
                    left.remove(msg["key"])
                elif msg["op"] == "task-erred":
                    raise RuntimeError(f"{msg['key']}: {msg['exception_text']}")

    async def free(self, keys: list[str]) -> None:
        await self.comm.write([{"op": "free-keys", "keys": keys, "stimulus_id": "bench-free"}])

    async def flood(self, n: int, batch: int = 100) -> tuple[float, float]:
        """Send `n` tasks in messages of `batch`; wall and worker CPU seconds until all are done."""
        keys = fresh_keys(n, "add")
        messages = [
            [addition(keys[i], i) for i in range(start, min(n, start + batch))]
            for start in range(0, n, batch)
        ]
        cpu, wall = self.cpu(), time.perf_counter()
        finishing = asyncio.create_task(self.finish(keys))
        for message in messages:
            await self.comm.write(message)
            await asyncio.sleep(0)
        await finishing
        wall, cpu = time.perf_counter() - wall, self.cpu() - cpu
        await self.free(keys)
        await asyncio.sleep(0.2)  # or the freeing counts as part of what follows
        return wall, cpu

    async def ping(self, n: int) -> float:
        """Send `n` tasks, each after the one before has finished; median seconds of a task."""
        times = []
        for i, key in enumerate(fresh_keys(n, "ping")):
            message = [addition(key, i)]
            start = time.perf_counter()
            await self.comm.write(message)
            await self.finish([key])
            times.append(time.perf_counter() - start)
            await self.free([key])
        return sorted(times)[n // 2]


def addition(key: str, i: int) -> dict[str, Any]:
    """The message that asks a worker to add two integers."""
    return compute_task(key, i, run_spec=ToPickle(Task(key, operator.add, i, 1)))


@contextlib.asynccontextmanager
async def worker(command: list[str], directory: Path) -> AsyncIterator[Peer]:
    """Start a worker with `command` (the address is added), stop it at the end."""
    registered: asyncio.Future[tuple[Comm, int]] = asyncio.get_running_loop().create_future()

    async def serve(comm: Comm) -> None:
        with contextlib.suppress(CommClosedError):
            while True:
                msg = await comm.read()
                if not isinstance(msg, dict):
                    continue
                answer = {"status": "OK", "time": time.time(), "heartbeat-interval": 1.0}
                if msg.get("op") == "register-worker":
                    await comm.write({**answer, "worker-plugins": {}})
                    registered.set_result((comm, msg["pid"]))
                    return  # from here on the visit owns this comm
                if msg.get("reply", True):
                    await comm.write(answer)

    listener = await listen("tcp://127.0.0.1:0", serve)
    argv = [*command, listener.contact_address]
    process = Process(f"worker-{time.time_ns()}", argv, directory, os.environ)
    try:
        try:
            comm, pid = await asyncio.wait_for(registered, PATIENCE)
        except asyncio.TimeoutError:
            raise RuntimeError(f"no worker registered; its output:\n{process.text()}") from None
        yield Peer(comm, pid)
        await comm.close()
    finally:
        await asyncio.to_thread(process.stop)
        listener.stop()


OPTIONS = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
STOCK_WORKER = [sys.executable, "-m", "dask", "worker", *OPTIONS]
OUR_WORKER = [sys.executable, "-m", "fastworker", *OPTIONS]
