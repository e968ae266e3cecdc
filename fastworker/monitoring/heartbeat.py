"""The heartbeat: tells the scheduler that the worker lives, and its figures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.metrics import time
from distributed.utils_comm import retry_operation

if TYPE_CHECKING:
    from dask.typing import Key

logger = logging.getLogger("distributed.worker")


class Heartbeat:
    """A mixin of ``fastworker.Worker``.

    ``distributed.Worker.heartbeat`` looks up a task twice, and closes the worker if the task is
    gone the second time. Here threads that run tasks remove them at any time, so each is looked up
    once.
    """

    if TYPE_CHECKING:
        active_keys: set[Key]
        address: str
        bandwidth_types: dict[Any, Any]
        bandwidth_workers: dict[Any, Any]
        contact_address: str
        extensions: dict[str, Any]
        periodic_callbacks: dict[str, Any]
        scheduler: Any
        scheduler_delay: float
        state: Any  # WorkerState of fastworker or of distributed
        status: Status

        async def close(self, *args: Any, **kwargs: Any) -> str | None: ...
        async def get_metrics(self) -> dict[str, Any]: ...
        def _update_latency(self, latency: float) -> None: ...

    async def heartbeat(self) -> None:
        """Send the worker's figures to the scheduler, and take over its clock and interval.

        As ``distributed.Worker.heartbeat``, with the same log lines. Closes the worker if the
        scheduler does not know it. A failure to reach the scheduler is logged.

        Raises
        ------
        Exception
            Any error but OSError, after the worker has been closed.
        """
        logger.debug("Heartbeat: %s", self.address)
        try:
            start, answer, stop = await self._beat()
            self._update_latency(stop - start)
            if answer["status"] == "missing":
                logger.warning("Scheduler was unaware of this worker; shutting down.")
                await self.close(reason="worker-heartbeat-missing")
                return
            self.scheduler_delay = answer["time"] - (start + stop) / 2
            milliseconds = 1000 * answer["heartbeat-interval"]
            self.periodic_callbacks["heartbeat"].callback_time = milliseconds
            self.bandwidth_workers.clear()
            self.bandwidth_types.clear()
        except OSError as error:
            if self.status in (Status.closing, Status.closed):
                # This worker closed the connection
                logger.debug("No heartbeat any more: %s", error)
            else:
                logger.exception("Failed to communicate with scheduler during heartbeat.")
        except Exception:
            logger.exception("Unexpected exception during heartbeat. Closing worker.")
            await self.close(reason="worker-heartbeat-error")
            raise

    async def _beat(self) -> tuple[float, dict[str, Any], float]:
        """The time of the request, the scheduler's answer and its time, in seconds."""
        start = time()
        metrics = await self.get_metrics()
        answer = await retry_operation(
            self.scheduler.heartbeat_worker,
            address=self.contact_address,
            now=start,
            metrics=metrics,
            executing=self._seconds_running(start),
            extensions={
                name: extension.heartbeat()
                for name, extension in self.extensions.items()
                if hasattr(extension, "heartbeat")
            },
        )
        return start, answer, time()

    def _seconds_running(self, now: float) -> dict[Key, float]:
        """For how long each task has run by now, in seconds."""
        tasks = [self.state.tasks.get(key) for key in self.active_keys]
        started = [(ts.key, ts.start_time) for ts in tasks if ts is not None]
        return {key: now - start for key, start in started if start is not None}
