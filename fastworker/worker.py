"""The worker: a thin asyncio shell around the native core."""

from __future__ import annotations

from typing import Any

import distributed

from fastworker.core import WorkerState


class Worker(distributed.Worker):
    """``distributed.Worker`` on fastworker's native task state machine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("WorkerStateClass", WorkerState)
        super().__init__(*args, **kwargs)
