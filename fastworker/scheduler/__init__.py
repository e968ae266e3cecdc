"""The low-latency lane, for distributed's scheduler and, independently, for a client.

On a scheduler, either of::

    dask scheduler --preload fastworker.scheduler       # or fastworker, in short
    client.register_plugin(fastworker.scheduler.LowLatency())

and on a client, either of::

    fastworker.scheduler.low_latency_client(client)
    dask.config.set({"distributed.client.preload": ["fastworker.scheduler"]})

``fastworker/fastworker.yaml`` says what can be set.
"""

from __future__ import annotations

from typing import Any

from distributed import Client, Scheduler

from fastworker.config.logs import get_logger
from fastworker.scheduler.client import LowLatencyClient, low_latency_client
from fastworker.scheduler.plugin import LowLatency
from fastworker.scheduler.settings import LowLatencySettings

__all__ = ["LowLatency", "LowLatencyClient", "dask_setup", "dask_teardown", "low_latency_client"]

logger = get_logger("scheduler")

WITHOUT = "This %s runs without the low-latency lane: %s"


async def dask_setup(server: Any) -> None:
    """Called by Dask when this module is preloaded into a scheduler or a client.

    With a bad value in the configuration, or in a distributed that the lane does not know, the
    server runs without the lane, and so does a server of another kind, such as a worker. The log
    has an error that says so.

    Raises
    ------
    RuntimeError
        The scheduler has a lane already.
    """
    if not isinstance(server, (Client, Scheduler)):
        logger.error(
            "The low-latency lane is for schedulers and clients; preloaded into a %s it does "
            "nothing",
            type(server).__name__,
        )
        return
    if isinstance(server, Client):
        quicken_as_configured(server)
        return
    try:
        plugin = LowLatency()
        await plugin.start(server)
        server.add_plugin(plugin)
    except (ValueError, NotImplementedError) as error:
        logger.error(WITHOUT, "scheduler", error)


def quicken_as_configured(client: Client) -> None:
    """Make a client quick, if ``fastworker.low-latency.client`` says so.

    With a bad value in the configuration, or in a distributed that the lane does not know, it runs
    without the lane, and the log has an error that says so.
    """
    try:
        if LowLatencySettings.load().client:
            low_latency_client(client)
    except (ValueError, NotImplementedError) as error:
        logger.error(WITHOUT, "client", error)


async def dask_teardown(server: Any) -> None:
    """Called by Dask when the scheduler or client closes: takes the lane out."""
    if isinstance(server, Client):
        quick = LowLatencyClient.of(server)
        if quick is not None:
            quick.remove()
    elif isinstance(server, Scheduler) and LowLatency.name in server.plugins:
        server.remove_plugin(LowLatency.name)
