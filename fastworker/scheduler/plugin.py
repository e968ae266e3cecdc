"""The scheduler's plugin: puts the lane in, and takes it out.

Workers and clients that join later get quick streams too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from distributed.batched import BatchedSend
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler

from fastworker.config.logs import get_logger
from fastworker.config.unknown_keys import warn_of_unknown_keys
from fastworker.scheduler import needs
from fastworker.scheduler.root_queue import RootQueue
from fastworker.scheduler.settings import LowLatencySettings, checked
from fastworker.scheduler.shadow import Shadow
from fastworker.scheduler.streams import LoopLoad, quicken, slow_down

logger = get_logger("scheduler")

REBUILD = "exec(source, names) or names['rebuild'](overrides)"
REBUILD_SOURCE = """\
def rebuild(overrides):
    try:
        from fastworker.scheduler import LowLatency
    except ModuleNotFoundError as error:
        import socket
        import sys

        raise ImportError(
            "LowLatency needs fastworker where the scheduler runs, too: install it there for "
            f"{sys.executable} on {socket.gethostname()} ({error})"
        ) from error
    return LowLatency(**overrides)
"""


class LowLatency(SchedulerPlugin):
    """Takes the waits out of a scheduler that is not busy.

    Keyword arguments override ``fastworker.low-latency`` in the configuration of the scheduler's
    process, which the plugin reads when it starts: ``LowLatency(queue_depth=16)`` overrides one.
    Raises TypeError for an unknown argument, ValueError for a bad value.

    Parameters
    ----------
    streams
        Whether messages to workers and clients leave at once. Default True.
    burst
        How often one stream may send early in one of its intervals (5 ms to a worker, 2 ms to a
        client). A whole number of at least 1; default 16.
    busy
        The share of a CPU that the event loop's thread may use before streams collect messages as
        in distributed. Above 0, at most 1; default 0.9.
    queue_depth
        Most tiny root tasks that a worker holds for each of its threads. 0 leaves root tasks to
        ``distributed.scheduler.worker-saturation``. Default 32.
    queue_work
        Most work that a worker holds as tiny root tasks for each thread, by their average duration.
        Seconds, or a text such as "20 ms", the default.
    queue_memory
        The share of a worker's memory limit that the results of the tiny root tasks it holds may
        take. Above 0, at most 1; default 0.01.
    tiny_duration
        A root task is tiny if tasks of its group take no longer than this on average. Seconds, or a
        text; default "5 ms".
    tiny_nbytes
        The largest result of a tiny root task. Bytes, or a text; default "64 KiB".
    proven
        How many tasks of a group must have had a small result, one after the other, before a worker
        gets more of them than in distributed. A whole number of at least 1; default 16.
    client
        Whether a preload in a client makes it quick; no effect in a scheduler. Default True.
    """

    name = "fastworker-low-latency"
    # The scheduler keeps the plugin that it has; registering another does nothing.
    idempotent = True

    def __init__(self, **overrides: Any) -> None:
        checked(overrides)
        self.overrides = overrides
        self.scheduler: Scheduler | None = None
        self.load: LoopLoad | None = None
        self.queue: RootQueue | None = None
        self.settings: LowLatencySettings | None = None
        self._shadow: Shadow | None = None

    def __reduce__(self) -> Any:
        # Only the arguments are pickled, also when a scheduler runs the plugin. They go with a
        # builtin and a text: a scheduler without this package has no function of ours to call.
        return eval, (REBUILD, {"overrides": self.overrides, "source": REBUILD_SOURCE, "names": {}})

    async def start(self, scheduler: Scheduler) -> None:
        """Put the lane in. Once it is in, another call does nothing.

        Raises
        ------
        ValueError
            A value in the configuration is bad.
        RuntimeError
            This plugin is in another scheduler, or this scheduler has another lane.
        NotImplementedError
            The installed distributed lacks something that the lane builds on.
        """
        if self.scheduler is not None:
            if self.scheduler is not scheduler:
                raise RuntimeError("this LowLatency is at work in another scheduler")
            return
        for name, plugin in scheduler.plugins.items():
            if isinstance(plugin, LowLatency) and plugin.scheduler is scheduler:
                raise RuntimeError(f"this scheduler has a low-latency lane already: {name!r}")
        warn_of_unknown_keys()
        settings = LowLatencySettings.load(self.overrides)
        needs.check(scheduler, needs.OF_SCHEDULER)
        self.scheduler = scheduler
        self.settings = settings
        if settings.streams:
            self.load = LoopLoad(settings.busy)
            for stream in self._streams():
                quicken(stream, self.load, settings.burst)
        if settings.queue_depth:
            self.queue = RootQueue(scheduler, settings)
        # Why a patch: distributed has no hook for a plugin that is unregistered, and a scheduler
        # whose streams stayed quick would not be distributed's.
        self._shadow = Shadow(scheduler, "remove_plugin", self._remove_plugin)
        logger.info("Low-latency lane installed: %s", settings)

    async def close(self) -> None:
        """Called by distributed when the scheduler closes."""
        self.remove()

    def remove(self) -> None:
        """Take the lane out: the scheduler is as distributed made it."""
        scheduler = self.scheduler
        if scheduler is None:
            return
        for stream in self._streams():
            slow_down(stream)
        if self.queue is not None:
            self.queue.close()
        assert self._shadow is not None
        self._shadow.remove(scheduler)
        self.scheduler = self.load = self.queue = self.settings = None
        logger.info("Low-latency lane removed")

    def _remove_plugin(self, before: Callable[..., None], name: str | None = None) -> None:
        before(name)
        if self.scheduler is not None and self not in self.scheduler.plugins.values():
            self.remove()

    def _streams(self) -> Iterator[BatchedSend]:
        assert self.scheduler is not None
        yield from self.scheduler.stream_comms.values()
        yield from self.scheduler.client_comms.values()

    def _quicken(self, streams: dict[str, BatchedSend], name: str) -> None:
        # Worker, client or lane may have left since this was scheduled.
        if self.load is not None and self.settings is not None and name in streams:
            quicken(streams[name], self.load, self.settings.burst)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Make its stream quick: it exists, though it is not connected yet."""
        self._quicken(scheduler.stream_comms, worker)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Let go of a worker that the scheduler has removed."""
        if self.queue is not None:
            self.queue.worker_left(worker)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """Make its stream quick, soon: distributed makes it right after this hook."""
        asyncio.get_running_loop().call_soon(self._quicken, scheduler.client_comms, client)

    def transition(
        self, key: Any, start: Any, finish: Any, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Learn from a task that has finished how long such tasks take."""
        if self.queue is not None:
            self.queue.finished(key, start, finish, kwargs)
