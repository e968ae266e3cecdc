"""A nanny whose worker is fastworker's."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

import distributed
from distributed.core import Status

from fastworker.comm import use_configured
from fastworker.ending import end_in_time
from fastworker.waiting import say_what_it_waits_for
from fastworker.worker import Worker

logger = logging.getLogger("distributed.nanny")

ENDING = (Status.closing, Status.closed, Status.failed)


class Nanny(distributed.Nanny):
    """``distributed.Nanny`` that starts a ``fastworker.Worker`` in its child process.

    Takes what ``distributed.Nanny`` takes. ``LocalCluster(worker_class=fastworker.Nanny)`` is a
    cluster of worker processes; ``dask worker --worker-class fastworker.Worker`` makes a stock
    nanny with the same worker.
    """

    def __init__(
        self, *args: Any, worker_class: type[distributed.Worker] | None = None, **kwargs: Any
    ) -> None:
        use_configured()
        super().__init__(*args, worker_class=worker_class or Worker, **kwargs)

    async def start_unsafe(self) -> Nanny:
        # The nanny looks for the scheduler before it starts a worker. Later it is the worker that
        # waits, and says so.
        waiting = asyncio.create_task(
            say_what_it_waits_for(
                logger,
                self.scheduler.address,
                self.connection_args,
                lambda: self.rpc._n_connecting > 0,
            )
        )
        try:
            await super().start_unsafe()
        finally:
            waiting.cancel()
        return self

    async def close(self, timeout: float = 5, reason: str = "nanny-close") -> Literal["OK"]:
        """Close the worker process and the nanny.

        Parameters
        ----------
        timeout
            Seconds that the worker process may take, before it is killed, and then once more.
        reason
            For the logs.
        """
        others = [nanny for nanny in distributed.Nanny._instances if nanny is not self]
        if self.status not in ENDING and all(nanny.status in ENDING for nanny in others):
            # Not before the last one: `fastworker` has all its nannies in one process.
            end_in_time(
                f"Nanny at {self.address_safe} (reason: {reason})",
                2 * timeout,
                asyncio.get_running_loop(),
                lambda: self.process and self.process.process and self.process.process.kill(),
            )
        await super().close(timeout=timeout, reason=reason)
        return "OK"
