"""The heartbeat: tells the scheduler that the worker lives, and its figures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from distributed.core import Status
from distributed.metrics import time
from distributed.utils_comm import retry_operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dask.typing import Key

logger = logging.getLogger("distributed.worker")


class Beating(Protocol):
    """What a heartbeat needs of its worker."""

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

    async def close(self, *, reason: str) -> str | None: ...
    async def get_metrics(self) -> dict[str, Any]: ...
    def _update_latency(self, latency: float) -> None: ...


async def beat(worker: Beating) -> None:
    """Send the worker's figures to the scheduler, and take over its clock and interval.

    As ``distributed.Worker.heartbeat``, with the same log lines. Closes the worker if the
    scheduler does not know it. A failure to reach the scheduler is logged.

    Raises
    ------
    Exception
        Any error but OSError, after the worker has been closed.
    """
    logger.debug("Heartbeat: %s", worker.address)
    try:
        start, answer, stop = await _exchange(worker)
        worker._update_latency(stop - start)
        if answer["status"] == "missing":
            logger.warning("Scheduler was unaware of this worker; shutting down.")
            await worker.close(reason="worker-heartbeat-missing")
            return
        worker.scheduler_delay = answer["time"] - (start + stop) / 2
        milliseconds = 1000 * answer["heartbeat-interval"]
        worker.periodic_callbacks["heartbeat"].callback_time = milliseconds
        worker.bandwidth_workers.clear()
        worker.bandwidth_types.clear()
    except OSError as error:
        if worker.status in (Status.closing, Status.closed):
            # This worker closed the connection
            logger.debug("No heartbeat any more: %s", error)
        else:
            logger.exception("Failed to communicate with scheduler during heartbeat.")
    except Exception:
        logger.exception("Unexpected exception during heartbeat. Closing worker.")
        await worker.close(reason="worker-heartbeat-error")
        raise


async def _exchange(worker: Beating) -> tuple[float, dict[str, Any], float]:
    """The time of the request, the scheduler's answer and its time, in seconds."""
    start = time()
    metrics = await worker.get_metrics()
    answer = await retry_operation(
        worker.scheduler.heartbeat_worker,
        address=worker.contact_address,
        now=start,
        metrics=metrics,
        executing=seconds_running(worker.active_keys, worker.state.tasks, start),
        extensions={
            name: extension.heartbeat()
            for name, extension in worker.extensions.items()
            if hasattr(extension, "heartbeat")
        },
    )
    return start, answer, time()


def seconds_running(keys: Iterable[Key], tasks: Mapping[Key, Any], now: float) -> dict[Key, float]:
    """For how long each of the tasks that are still there has run by now, in seconds.

    ``distributed.Worker.heartbeat`` looks up a task twice, and closes the worker if the task is
    gone the second time. Here threads that run tasks remove them at any time, so each is looked up
    once.
    """
    found = [tasks.get(key) for key in keys]
    started = [(ts.key, ts.start_time) for ts in found if ts is not None]
    return {key: now - start for key, start in started if start is not None}
