"""Workers that each do one thing wrong, to see that the fault harness finds it."""

from __future__ import annotations

import _multiprocessing
import multiprocessing
import subprocess
import tempfile
from typing import Any

import fastworker
from fastworker.core.messages import ComputeTask, FreeKeys
from support.faults import tasks


class Wrong(fastworker.Worker):
    """Computes something else every now and then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        right = tasks.combine
        tasks.combine = lambda salt, numbers: right(salt, numbers) + (salt % 8 == 0)


class Losing(fastworker.Worker):
    """Loses a message, the twentieth of its type."""

    type_lost: type = ComputeTask
    n_left = 20

    def _handle_native(self, messages: list[ComputeTask | FreeKeys]) -> bool:
        for message in messages:
            if isinstance(message, self.type_lost):
                self.n_left -= 1
                if self.n_left == 0:
                    messages.remove(message)
                    break
        return super()._handle_native(messages)


class Hoarding(Losing):
    type_lost = FreeKeys
    n_left = 1


class Littering(fastworker.Worker):
    """Leaves a temporary directory, a semaphore and a process behind."""

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        tempfile.mkdtemp(prefix="litter-")
        name = multiprocessing.current_process()._config["semprefix"] + "-litter"
        _multiprocessing.SemLock(1, 1, 1, name, False)
        subprocess.Popen(["sleep", "300"], start_new_session=True)
        return await super().close(*args, **kwargs)


class Staying(fastworker.Worker):
    """Does not end."""

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        return None
