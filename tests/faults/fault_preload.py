"""Preloaded into schedulers, workers and nannies: SIGUSR1 has a process log its stacks."""

from __future__ import annotations

import faulthandler
import signal
from typing import Any

from distributed import Scheduler, SchedulerPlugin


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
