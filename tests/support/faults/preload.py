"""Preloaded into schedulers, workers and nannies: SIGUSR1 has a process log its stacks.

The semaphores that multiprocessing makes there, and in child processes, have the episode in their
names.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from typing import Any

from distributed import Scheduler, SchedulerPlugin


def semaphore_prefix(mark: str) -> str:
    """What the names of an episode's semaphores begin with."""
    return f"faults-{mark}"


if "FAULT_EPISODE" in os.environ:
    # Private to multiprocessing, as there is no other way; child processes inherit it
    config: dict[str, Any] = vars(multiprocessing.current_process())["_config"]
    config["semprefix"] = "/" + semaphore_prefix(os.environ["FAULT_EPISODE"])


class FaultCounter(SchedulerPlugin):
    """How many workers the scheduler has removed, for whatever reason."""

    name = "fault-counter"

    def __init__(self) -> None:
        self.removed = 0

    def remove_worker(self, *args: Any, **kwargs: Any) -> None:
        self.removed += 1


def dask_setup(server: Any) -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if isinstance(server, Scheduler):
        server.add_plugin(FaultCounter())
