"""Call stacks of the tasks that run now, and statistical profiles of all tasks."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

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


def profile_tasks(
    active_threads: dict[int, Key],
    recent: dict[str, Any],
    by_prefix: defaultdict[str, dict[str, Any]],
    low_level: bool,
    digest_metric: Callable[[str, float], None],
) -> None:
    """Add the stack of every running task to profiles.

    Parameters
    ----------
    active_threads
        The task of each thread that runs one. ``copy_stacks`` reads it while no other thread
        runs, so it needs no lock.
    recent, by_prefix
        The tree that profiles all tasks, and those of each prefix of keys, as
        ``distributed.profile.create`` makes them.
    low_level
        Whether to add native frames, by means of libunwind.
    digest_metric
        Is told the seconds that this took.
    """
    if not active_threads:
        return
    start = time()
    for ident, key, frames in copy_stacks(active_threads):
        stack = _stack_of_task(frames)
        if not stack:
            continue
        native = profile.ll_get_stack(ident) if low_level else None
        top = _add(recent, stack)
        profile.llprocess(native, None, top)
        _add(by_prefix[prefix_of(key)], stack)
    digest_metric("profile-duration", time() - start)


def call_stacks(
    active_threads: dict[int, Key], keys: Collection[Key] | None = None
) -> dict[Key, list[str]]:
    """``{key: frames as text, outermost first}`` of running tasks: of ``keys``, or of all."""
    stacks = {
        key: [profile.repr_frame(frame) for frame in reversed(frames)]
        for _ident, key, frames in copy_stacks(active_threads)
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
