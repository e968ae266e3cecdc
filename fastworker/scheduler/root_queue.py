"""A deeper queue of root tasks on the workers, while those tasks are tiny.

distributed's scheduler holds root tasks back, so that results that wait for their dependents do not
fill the workers: a worker has ``ceil(worker-saturation x threads)`` of them, 1.1 by default, and
gets the next one when one is done. A tiny task takes less time than that round trip, and its result
takes little memory. For such tasks this module sends more, up to a bounded number, amount of work
and amount of memory.

A group is tiny if its last ``proven`` finished tasks all had small results, and were short on
average. After one large result the group is back at distributed's depth until it has proven itself
again. So a wrong guess costs at most the memory of the tasks that were sent before the first large
result was known. Time is judged by an average because a busy machine makes any task slow now and
then. One task that takes eight times as long as a tiny one may lifts the average over the limit,
and the depth shrinks from the first slow task on.

How it sends: distributed's rule compares the number of tasks on a worker with
``Scheduler.WORKER_SATURATION``. That attribute gets another value for as long as it takes to pass
queued tasks through distributed's own transition, and its own value back before anything else can
run: no coroutine or handler sees it, nor any plugin but in its ``transition`` hook for those very
tasks. What depends on it in the scheduler's state (``idle_task_count``) is recomputed both times.
So everything else that sends tasks to workers (a new graph, a finished task, a worker that joins)
works with the user's setting, and a task of an unknown group is sent as distributed sends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from math import ceil
from typing import Any

from distributed.scheduler import Scheduler, TaskGroup, TaskState, WorkerState

from fastworker.scheduler.settings import LowLatencySettings

AVERAGE_OVER = 8
"""The moving average of durations is over about that many tasks."""


class Evidence:
    """What the tasks of one group were like since the last one whose result was not small."""

    __slots__ = ("duration", "group", "largest", "streak")

    def __init__(self, group: TaskGroup) -> None:
        self.group = group
        self.reset()

    def reset(self) -> None:
        self.streak = 0  # small results in a row
        self.duration = 0.0  # their moving average, seconds
        self.largest = 0  # bytes of the largest result

    def add(self, duration: float, nbytes: int) -> None:
        self.streak += 1
        self.duration += (duration - self.duration) / min(self.streak, AVERAGE_OVER)
        self.largest = max(self.largest, nbytes)


class RootQueue:
    """Watches tasks finish, and tops up the workers at the end of the turn of the event loop."""

    def __init__(self, scheduler: Scheduler, settings: LowLatencySettings) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.evidence: dict[str, Evidence] = {}
        self.have_room: set[WorkerState] = set()  # finished a task since they were last filled
        self.sent = 0  # tasks sent beyond distributed's depth
        self._next_fill: asyncio.Handle | None = None

    def close(self) -> None:
        """Send no more; what workers hold already stays there."""
        if self._next_fill is not None:
            self._next_fill.cancel()
            self._next_fill = None
        self.have_room.clear()
        self.evidence.clear()

    def finished(self, key: Any, start: str, finish: str, details: dict[str, Any]) -> None:
        """Note a transition of a task. The plugin calls it for every one, so it must be quick."""
        if finish == "forgotten" and self.evidence:
            self._forget_gone(self.scheduler.tasks[key].group)
            return
        if start != "processing" or not self.scheduler.queued:
            return
        ws = self.scheduler.workers.get(details.get("worker"))
        if ws is None:
            return
        self.have_room.add(ws)
        ts = self.scheduler.tasks[key]
        if finish != "memory" or not ts.group.states["queued"]:
            return  # no task of its group waits
        evidence = self._evidence_of(ts.group)
        if evidence is None:
            evidence = self.evidence[ts.group.name] = Evidence(ts.group)
        duration = compute_seconds(details.get("startstops"))
        nbytes = ts.get_nbytes()
        if duration is None or nbytes > self.settings.tiny_nbytes:
            evidence.reset()
            return
        evidence.add(duration, nbytes)
        if self._next_fill is None and evidence.streak >= self.settings.proven:
            # Not at once: the scheduler is in the middle of its transitions. After this turn of the
            # loop all tasks that finished together are known, and one message refills a worker.
            self._next_fill = asyncio.get_running_loop().call_soon(self.fill)

    def _evidence_of(self, group: TaskGroup) -> Evidence | None:
        evidence = self.evidence.get(group.name)
        # A group that was forgotten may come back under its name, with other work to do.
        return evidence if evidence is not None and evidence.group is group else None

    def _forget_gone(self, group: TaskGroup) -> None:
        """The scheduler lets go of a group, right after this hook, with its last task."""
        if group.name in self.evidence and not any(
            n for state, n in group.states.items() if state != "forgotten"
        ):
            del self.evidence[group.name]

    def worker_left(self, address: str) -> None:
        """Let go of a worker that the scheduler has removed."""
        self.have_room = {ws for ws in self.have_room if ws.address != address}

    def depth(self, ts: TaskState, workers: Iterable[WorkerState], configured: float) -> float:
        """How many tasks like ``ts`` each of ``workers`` may hold for each of its threads.

        It is ``configured``, the user's worker-saturation, or more.
        """
        settings = self.settings
        evidence = self._evidence_of(ts.group)
        if evidence is None or evidence.streak < settings.proven:
            return configured
        if evidence.duration > settings.tiny_duration:
            return configured
        if ts.prefix.duration_average < 0:
            # A heartbeat has reported a task of this prefix that runs unusually long.
            return configured
        depth = float(settings.queue_depth)
        if evidence.duration:
            depth = min(depth, settings.queue_work / evidence.duration)
        if evidence.largest:
            for ws in workers:
                if ws.memory_limit:
                    room = settings.queue_memory * ws.memory_limit / max(ws.nthreads, 1)
                    depth = min(depth, room / evidence.largest)
        return max(configured, float(int(depth)))

    def fill(self) -> None:
        """Send tiny root tasks from the front of the queue to workers that have room for them."""
        self._next_fill = None
        scheduler = self.scheduler
        candidates = {
            ws
            for ws in self.have_room
            if scheduler.workers.get(ws.address) is ws and ws in scheduler.running
        }
        self.have_room = candidates
        if not candidates or not scheduler.queued:
            return
        configured = scheduler.WORKER_SATURATION
        depth = self.depth(scheduler.queued.peek(), candidates, configured)
        # Only workers that are half empty: each gets several tasks in one message.
        workers = {ws for ws in candidates if 2 * in_flight(ws) <= ceil(depth * ws.nthreads)}
        if depth <= configured or not workers:
            return
        self.have_room = candidates - workers
        now_in_force = configured
        stimulus_id = f"fastworker-fill-{time.time()}"
        try:
            while scheduler.queued:
                ts = scheduler.queued.peek()
                depth = self.depth(ts, workers, configured)
                if depth <= configured:
                    break
                if depth != now_in_force:
                    now_in_force = scheduler.WORKER_SATURATION = depth
                    for ws in workers:
                        scheduler.check_idle_saturated(ws)
                if not scheduler.idle_task_count:
                    break
                scheduler.transitions({ts.key: "processing"}, stimulus_id)
                if ts.state == "queued":
                    break  # distributed sends it to no worker
                self.sent += 1
        finally:
            scheduler.WORKER_SATURATION = configured
            # distributed may have chosen a worker that already had room.
            for ws in workers | scheduler.idle_task_count:
                scheduler.check_idle_saturated(ws)


def in_flight(ws: WorkerState) -> int:
    """Tasks that a worker holds and that take, or will take, one of its threads."""
    return len(ws.processing) - len(ws.long_running)


def compute_seconds(startstops: Any) -> float | None:
    """Seconds that a task computed, as its worker reports; None if it does not."""
    seconds = None
    for part in startstops or ():
        if part["action"] == "compute":
            seconds = (seconds or 0.0) + max(0.0, part["stop"] - part["start"])
    return seconds
