"""Steps of closing a worker that distributed's ``Worker.close`` does not have."""

from __future__ import annotations

import asyncio
import logging

import distributed
from distributed.core import Status
from distributed.utils import _offload_executor, wait_for

logger = logging.getLogger("distributed.worker")


async def tell_nanny(worker: distributed.Worker, reason: str, timeout: float) -> None:
    """Have the nanny not start another worker.

    A nanny that closes has stopped listening: it asks its worker to close, and waits for that. So
    this comes before the worker counts as closing, and that other close does not wait for this one.
    distributed's worker and nanny wait for each other, until the nanny kills it.

    Parameters
    ----------
    worker
    reason
        For the nanny's log.
    timeout
        Seconds to wait for the nanny's answer.
    """
    try:
        async with worker.rpc(worker.nanny) as nanny:
            await wait_for(nanny.close_gracefully(reason=reason), timeout)
    except ConnectionError as error:
        # It has stopped listening, as it closes: as a rule, this is its doing
        logger.debug("Nanny %s does not listen: %s", worker.nanny, error)
    except (OSError, asyncio.TimeoutError, RuntimeError) as error:
        if worker.status not in (Status.closing, Status.closed):
            logger.warning("Closing without a word to nanny %s: %s", worker.nanny, error)


def break_off(worker: distributed.Worker) -> None:
    """Let go of everything at once, as closing was cancelled or has failed.

    Any other call that closes the worker waits until it has finished. That may be the same asyncio
    task: cancelled while it closes the worker for the scheduler, it closes it again as it ends.
    """
    worker.batched_stream.abort()
    for callback in worker.periodic_callbacks.values():
        callback.stop()
    for executor in worker.executors.values():
        if executor is not _offload_executor:
            executor.shutdown(wait=False)
    for comm in list(worker._comms):
        comm.abort()
    worker.stop()
    worker.status = Status.closed
    worker._event_finished.set()
