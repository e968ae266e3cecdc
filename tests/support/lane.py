"""What the tests of the lane run on workers and on schedulers."""

from __future__ import annotations

import time
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler


def increment(x):
    return x + 1


def result_of_size(i, nbytes):
    return bytes(nbytes)


def tiny_then_large(i, tiny, nbytes):
    """A small result for the first ``tiny`` values of ``i``, ``nbytes`` for the others."""
    return bytes(nbytes if i >= tiny else 1)


def slow(i, seconds):
    time.sleep(seconds)
    return i


class Depths(SchedulerPlugin):
    """Notes how many tasks a worker has whenever one of some kind is sent to it.

    ``sent`` holds (key, tasks on its worker with it, number of tasks that had finished).
    """

    name = "depths"

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int]] = []
        self.finished: list[str] = []

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "processing":
            ws = self.scheduler.tasks[key].processing_on
            self.sent.append((key, len(ws.processing), len(self.finished)))
        elif start == "processing" and finish == "memory":
            self.finished.append(key)

    def most(self, prefix: str = "") -> int:
        """The most tasks that a worker had when one whose key starts so was sent to it."""
        return max(depth for key, depth, _ in self.sent if str(key).startswith(prefix))


def most_on_a_worker(dask_scheduler: Scheduler, prefix: str = "") -> int:
    """For ``Client.run_on_scheduler``, once a ``Depths`` is registered."""
    return dask_scheduler.plugins["depths"].most(prefix)


def stream_types(dask_scheduler: Scheduler) -> dict[str, list[str]]:
    """The class names of the streams to workers and to clients."""
    return {
        "workers": [type(s).__name__ for s in dask_scheduler.stream_comms.values()],
        "clients": [type(s).__name__ for s in dask_scheduler.client_comms.values()],
    }
