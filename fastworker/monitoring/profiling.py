"""Call stacks of the tasks that run now, and statistical profiles of all tasks."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Hashable
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from distributed import profile
from distributed.metrics import time

from fastworker.core.counters import prefix_of
from fastworker.monitoring.stacks import FrameCopy, copy_stacks

#: The frame that called a task's own code, by the end of its file's name: any frame of
#: distributed's worker, or, for plain tasks, the function PULL in POOL.
WORKER = "distributed/worker.py"
POOL = "fastworker/execution/pool.py"
PULL = "pull"

#: How many frames of a stack to read, from the innermost. Profiles are trees that distributed walks
#: by recursion, so it sets the same limits.
MAX_DEPTH = 101


class Profiling:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``.

    ``copy_stacks`` reads ``active_threads`` while no other thread runs, so it needs no lock.
    """

    if TYPE_CHECKING:
        active_threads: dict[int, Key]
        low_level_profiler: bool
        profile_keys: defaultdict[str, dict[str, Any]]
        profile_recent: dict[str, Any]

        def digest_metric(self, name: Hashable, value: float) -> None: ...

    def trigger_profile(self) -> None:
        """Add the stack of every running task to the profiles."""
        if not self.active_threads:
            return
        start = time()
        for ident, key, frames in copy_stacks(self.active_threads):
            stack = _stack_of_task(frames)
            if not stack:
                continue
            native = profile.ll_get_stack(ident) if self.low_level_profiler else None
            top = _add(self.profile_recent, stack)
            profile.llprocess(native, None, top)
            _add(self.profile_keys[prefix_of(key)], stack)
        self.digest_metric("profile-duration", time() - start)

    def get_call_stack(self, keys: Collection[Key] | None = None) -> dict[Key, list[str]]:
        """``{key: frames as text, outermost first}`` of running tasks: of ``keys``, or of all."""
        stacks = {
            key: [profile.repr_frame(frame) for frame in reversed(frames)]
            for _ident, key, frames in copy_stacks(self.active_threads)
        }
        if keys is None:
            return stacks
        return {key: stacks[key] for key in keys if key in stacks}


def _stack_of_task(frames: list[FrameCopy]) -> list[FrameCopy]:
    """The frames of a task's own code, the outermost first; ``frames`` has the innermost first.

    Empty if the thread is not in the task's code: the task has not begun, or is over.
    """
    for n, frame in enumerate(frames):
        code = frame.f_code
        if n and (
            code.co_filename.endswith(WORKER)
            or (code.co_name == PULL and code.co_filename.endswith(POOL))
        ):
            depth = min(MAX_DEPTH, sys.getrecursionlimit() // 4 + 1)
            return frames[: min(n, depth)][::-1]
    return []


def _add(tree: dict[str, Any], stack: list[FrameCopy]) -> dict[str, Any]:
    """Count a stack in a tree of the kind that ``profile.create`` begins.

    Returns the node of its innermost frame, which is not counted: a node counts the stacks in which
    it had called another.
    """
    node = tree
    for frame in stack:
        node["count"] += 1
        name = profile.identifier(frame)
        child = node["children"].get(name)
        if child is None:
            child = node["children"][name] = {
                "count": 0,
                "description": profile.info_frame(frame),
                "children": {},
                "identifier": name,
            }
        node = child
    return node
