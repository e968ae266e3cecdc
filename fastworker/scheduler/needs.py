"""What the lane builds on in distributed, and distributed does not promise to keep."""

from __future__ import annotations

from typing import Any

import distributed
from distributed.batched import BatchedSend

#: Names of attributes, by the class whose instances have them.
OF_SCHEDULER = (
    *("WORKER_SATURATION", "check_idle_saturated", "client_comms", "idle_task_count", "queued"),
    *("remove_plugin", "running", "stream_comms", "transitions"),
)
OF_CLIENT = ("_ensure_connected", "scheduler_comm")
OF_STREAM = ("interval", "next_deadline", "waker")


def check(server: Any, names: tuple[str, ...]) -> None:
    """Raises NotImplementedError, naming what is not there, in a scheduler or a client that the
    lane cannot be put into."""
    stream = BatchedSend(interval="1 ms", loop=server.loop)
    lacking = [
        f"{type(owner).__name__}.{name}"
        for owner, its in ((server, names), (stream, OF_STREAM))
        for name in its
        if not hasattr(owner, name)
    ]
    if lacking:
        raise NotImplementedError(
            f"distributed {distributed.__version__} has no {', '.join(lacking)}, which this "
            "version of fastworker's lane builds on"
        )
