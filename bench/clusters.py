"""Whole clusters for benchmarks: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from distributed import Client

from fastworker.demo.launcher import Kind, Launcher

PATIENCE = 60.0
"""Seconds after which something that does not happen is an error."""

STOCK: Kind = "stock"
OURS: Kind = "fastworker"


@contextlib.contextmanager
def cluster(
    directory: Path,
    name: str,
    workers: Sequence[Kind],
    *options: str,
    worker_options: Sequence[str] = (),
    memory_limit: str | None = None,
) -> Iterator[Client]:
    """A client of a scheduler of its own with these workers, which are called w0, w1, ...

    Each worker has one thread, and a nanny if there is a memory limit. ``options`` are the
    scheduler's, ``worker_options`` those of each worker. What the processes write goes to
    ``directory``/``name``.
    """
    directory = directory / name
    directory.mkdir()
    nanny = ["--no-nanny"] if memory_limit is None else ["--memory-limit", memory_limit]
    with Launcher(directory) as launcher:
        scheduler = launcher.scheduler("--no-dashboard", *options)
        for i, kind in enumerate(workers):
            own = ["--name", f"w{i}", "--nthreads", "1", *nanny, *worker_options]
            launcher.worker(scheduler.address, *own, kind=kind)
        with launcher.client(scheduler, len(workers), set_as_default=False) as client:
            with client.as_current():
                yield client
