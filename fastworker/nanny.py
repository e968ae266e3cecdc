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

#: Seconds that the command gives its nannies to close after a signal; see ``Nanny.close``.
SIGNAL_TIMEOUT = 10.0

ENDING = (Status.closing, Status.closed, Status.failed)


class Nanny(distributed.Nanny):
    """``distributed.Nanny`` that starts a ``fastworker.Worker`` in its child process.

    Takes what ``distributed.Nanny`` takes. ``LocalCluster(worker_class=fastworker.Nanny)`` is a
    cluster of worker processes; ``dask worker --worker-class fastworker.Worker`` makes a stock
    nanny with the same worker. Raises TypeError where another nanny makes it as its worker.
    """

    #: Those of this process; all of them are in the thread of one event loop that ends with them.
    _alive: ClassVar[weakref.WeakSet[Nanny]] = weakref.WeakSet()

    def __init__(
        self, *args: Any, worker_class: type[distributed.Worker] | None = None, **kwargs: Any
    ) -> None:
        if "nanny" in kwargs:
            # What a nanny calls its worker class with. distributed's only says that daemonic
            # processes have no children.
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
        # The nanny looks for the scheduler before it starts a worker. Later it is the worker that
        # waits, and says so.
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
            # distributed does not notice that a start was cancelled, as it is at the death timeout,
            # and fails an assertion here
            process.status = Status.failed
        await super().kill(timeout=timeout, reason=reason)

    def _connects(self) -> bool:
        """Whether a connection is being made; True if distributed does not tell any more, which
        has no public name for it."""
        return getattr(self.rpc, "_n_connecting", 1) > 0

    async def close(self, timeout: float = 5, reason: str = "nanny-close") -> Literal["OK"]:
        """Close the worker process and the nanny.

        Parameters
        ----------
        timeout
            Seconds that the worker process may take, before it is killed, and then once more.
        reason
            For the logs.
        """
        others = [nanny for nanny in self._alive if nanny is not self]
        if self.status not in ENDING and all(nanny.status in ENDING for nanny in others):
            # Not before the last one: `fastworker` has all its nannies in one process.
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
