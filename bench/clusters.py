"""Whole clusters for benchmarks: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distributed import Client

PATIENCE = 60.0
"""Seconds after which something that does not happen is an error."""

STOCK = ["dask", "worker"]
OURS = ["fastworker"]
"""Modules with arguments, to be run as a worker with one thread."""


@contextlib.contextmanager
def process(arguments: list[str], directory: Path, name: str) -> Iterator[None]:
    """A Python process that is ended in any case; its output goes to a file in `directory`."""
    with (directory / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=log, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def cluster(
    directory: Path,
    name: str,
    workers: list[list[str]],
    *options: str,
    memory_limit: str | None = None,
) -> Iterator[Client]:
    """A client of a scheduler of its own with these workers, which are called w0, w1, ...

    ``options`` are the scheduler's. With a memory limit each worker has a nanny.
    """
    file = directory / f"{name}.json"
    scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler += ["--scheduler-file", str(file), *options]
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(scheduler, directory, f"{name}-scheduler"))
        for i, command in enumerate(workers):
            worker = [*command, "--scheduler-file", str(file), "--name", f"w{i}"]
            worker += ["--nthreads", "1", "--host", "127.0.0.1"]
            worker += ["--no-nanny"] if memory_limit is None else ["--memory-limit", memory_limit]
            worker += ["--local-directory", str(directory)]
            stack.enter_context(process(worker, directory, f"{name}-worker-{i}"))
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                address = json.loads(file.read_text())["address"]
                break
            except (OSError, ValueError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name}: no scheduler") from None
                time.sleep(0.05)
        client = Client(address, timeout=PATIENCE, set_as_default=False)
        with client:
            client.wait_for_workers(len(workers), timeout=PATIENCE)
            with client.as_current():
                yield client
