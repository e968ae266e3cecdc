"""A nanny whose worker is fastworker's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import weakref
from typing import Any, ClassVar, Literal

import distributed
from distributed.core import Status

from fastworker.comm import use_configured
from fastworker.control.ending import end_in_time, end_in_time_after_signals
from fastworker.link.waiting import say_what_it_waits_for
from fastworker.worker import Worker

logger = logging.getLogger("distributed.nanny")

#: Seconds that distributed's command gives nannies to close after a signal; see ``Nanny.close``.
SIGNAL_TIMEOUT = 10.0

ENDING = (Status.closing, Status.closed, Status.failed)


class Nanny(distributed.Nanny):
    """``distributed.Nanny`` that starts a ``fastworker.Worker`` in its child process.

    Takes the arguments of ``distributed.Nanny``. ``LocalCluster(worker_class=fastworker.Nanny)`` is
    a cluster of worker processes; ``dask worker --worker-class fastworker.Worker`` makes
    distributed's nanny with the same worker. Raises TypeError if another nanny makes it as its
    worker.
    """

    #: The nannies of this process, all on one event loop. Only its thread reads and writes the set.
    _alive: ClassVar[weakref.WeakSet[Nanny]] = weakref.WeakSet()

    def __init__(
        self, *args: Any, worker_class: type[distributed.Worker] | None = None, **kwargs: Any
    ) -> None:
        if "nanny" in kwargs:
            # A nanny passes this to its worker class. distributed's error would only say that
            # daemonic processes have no children.
            raise TypeError(
                "a nanny cannot be the worker of another; as the worker class of a command, name "
                "fastworker.Worker: its nanny comes by itself"
            )
        use_configured()
        super().__init__(*args, worker_class=worker_class or Worker, **kwargs)
        self._alive.add(self)

    async def start_unsafe(self) -> Nanny:
        end_in_time_after_signals(
            "Nanny", 2 * SIGNAL_TIMEOUT, asyncio.get_running_loop(), _kill_workers
        )
        # The nanny connects to the scheduler before it starts a worker. Later the worker waits for
        # it, and logs that.
        waiting = asyncio.create_task(
            say_what_it_waits_for(
                logger, self.scheduler.address, self.connection_args, self._connects
            )
        )
        try:
            await super().start_unsafe()
        finally:
            waiting.cancel()
        return self

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        """Stop the worker process; see ``distributed.Nanny.kill``."""
        process = self.process
        if process and process.status == Status.starting and process.running.is_set():
            # The death timeout cancels a start; distributed does not notice, and would fail an
            # assertion here
            process.status = Status.failed
        await super().kill(timeout=timeout, reason=reason)

    def _connects(self) -> bool:
        """Whether a connection is being made. distributed has no public name for it; True if it has
        dropped the private one."""
        return getattr(self.rpc, "_n_connecting", 1) > 0

    async def close(self, timeout: float = 5, reason: str = "nanny-close") -> Literal["OK"]:
        """Close the worker process and the nanny.

        Parameters
        ----------
        timeout
            Seconds for the worker process to end, and then once more after it has been killed.
        reason
            For the logs.
        """
        others = [nanny for nanny in self._alive if nanny is not self]
        if self.status not in ENDING and all(nanny.status in ENDING for nanny in others):
            # Only with the last nanny: `fastworker` has all its nannies in one process.
            end_in_time(
                f"Nanny at {self.address_safe} (reason: {reason})",
                2 * timeout,
                asyncio.get_running_loop(),
                _kill_workers,
            )
        await super().close(timeout=timeout, reason=reason)
        return "OK"


def _kill_workers() -> None:
    """Kill the worker processes of all nannies in this process."""
    for nanny in list(Nanny._alive):
        pid = nanny.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
