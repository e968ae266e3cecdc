"""Attributes of distributed that the lane builds on, and that may change in any release."""

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
    """Raise NotImplementedError if a scheduler or client lacks an attribute; the error names it."""
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
