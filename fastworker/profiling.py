"""What the tasks of a worker are doing right now, and what they did most of the time."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Hashable
from threading import Lock
from types import FrameType
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from dask.utils import key_split
from distributed import profile
from distributed.metrics import time

#: Ends of the names of the files whose frames stand right below those of a task: of what runs plain
#: tasks, and of what distributed runs other ones with.
POOL = "fastworker/execution/pool.py"
WORKER = "distributed/worker.py"
BELOW_TASKS = (POOL, WORKER)


class Profiling:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``.

    Threads that run plain tasks enter themselves in ``active_threads`` without
    ``active_threads_lock``, so that the lock stops only the others.
    """

    if TYPE_CHECKING:
        active_threads: dict[int, Key]
        active_threads_lock: Lock
        low_level_profiler: bool
        profile_keys: defaultdict[str, dict[str, Any]]
        profile_recent: dict[str, Any]

        def digest_metric(self, name: Hashable, value: float) -> None: ...

    def _task_frames(self) -> dict[int, tuple[Key, FrameType]]:
        """By thread, the key of the task that it runs and its innermost frame."""
        with self.active_threads_lock:
            before = self.active_threads.copy()
            if not before:
                return {}
            frames = sys._current_frames()
            after = self.active_threads.copy()
        # A frame belongs to the task if the thread was at it both before and after it was taken
        return {
            ident: (key, frames[ident])
            for ident, key in before.items()
            if ident in frames and ident in after and after[ident] == key
        }

    def trigger_profile(self) -> None:
        """Add one look at the stack of every running task to the profiles."""
        if not self.active_threads:
            return
        start = time()
        for ident, (key, frame) in self._task_frames().items():
            below = _below_task(frame)
            if below is None:
                continue
            native = profile.ll_get_stack(ident) if self.low_level_profiler else None
            top = profile.process(frame, True, self.profile_recent, stop=below)
            profile.llprocess(native, None, top)
            profile.process(frame, True, self.profile_keys[key_split(key)], stop=below)
        self.digest_metric("profile-duration", time() - start)

    def get_call_stack(self, keys: Collection[Key] | None = None) -> dict[Key, list[str]]:
        """The stacks of running tasks as text, the outermost frame first; of ``keys``, or all."""
        stacks = {key: profile.call_stack(frame) for key, frame in self._task_frames().values()}
        if keys is None:
            return stacks
        return {key: stacks[key] for key in keys if key in stacks}


def _below_task(frame: FrameType) -> str | None:
    """Which of `BELOW_TASKS` the stack of a task stands on, as ``profile.process`` wants it.

    None if there is no code of the task's on the stack: it has not begun, or is over.
    """
    here = frame.f_back
    while here is not None:
        for file in BELOW_TASKS:
            if here.f_code.co_filename.endswith(file):
                return file
        here = here.f_back
    return None
