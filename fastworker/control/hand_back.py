"""Handing back the tasks that a paused worker has not begun.

A worker that pauses, since its memory is nearly full, keeps the tasks that it has not begun.
The scheduler gives it no new ones, but takes those away only by stealing: never from a worker
with no more tasks than threads. If a leak fills the memory, they wait forever. So a worker that
stays paused releases them, and then asks the scheduler to reschedule them.

The order makes every race harmless:

- The worker decides, releases and sends in one turn of its event loop. Only the event loop ends a
  pause, so no task begins meanwhile.
- The scheduler has been told of the pause before, on the same stream. So it sends the tasks to
  other workers, or keeps them (queued, no-worker) until a worker that may run them is running, this
  one included.
- The scheduler ignores the message for a task that it has taken away meanwhile.
- Messages that the scheduler sent about the task before find no task here. A message to run it here
  again comes after the release.

The scheduler counts neither a failure nor a retry of the task.

These stay:

- tasks that run, and keys that are being fetched: the worker has to wait for the event that ends
  them;
- actors: the scheduler keeps an actor's worker in its tables when the actor is rescheduled;
- tasks added by hand: the scheduler may not know them, so they would be lost;
- inputs of tasks that stay.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from distributed.core import Status

from fastworker.config.logs import get_logger
from fastworker.control.steering import (
    NOT_BEGUN,
    Steering,
    is_by_hand,
    lock_of,
    new_stimulus_id,
    users,
)
from fastworker.core.counters import prefix_of

if TYPE_CHECKING:
    from dask.typing import Key

logger = get_logger("memory")

#: How many kinds of tasks to name in the log.
NAMED_KINDS = 5


class HandBack:
    """Hands back the tasks of one worker. Only the thread of its event loop uses it.

    Parameters
    ----------
    worker
    after
        Seconds of pause after which the worker hands tasks back; None: never.
    """

    def __init__(self, worker: Steering, after: float | None) -> None:
        self._worker = worker
        self.after = after
        #: What is left of the pause before tasks are handed back, as the loop's timer.
        self.timer: object = None

    def look_at_status(self) -> None:
        """Start or stop the timer; to be called when the worker's status has been set."""
        if self._worker.status != Status.paused:
            if self.timer is not None:
                self._worker.loop.remove_timeout(self.timer)
                self.timer = None
        elif self.timer is None and self.after is not None:
            self.timer = self._worker.loop.call_later(self.after, self.now)

    def now(self) -> None:
        """Hand back what has not begun; later, what has come or become free since."""
        self.timer = None
        worker = self._worker
        keys = not_begun(worker)
        if keys:
            stimulus_id = new_stimulus_id("hand-back")
            # The lock is not held: this may spill, or call plugins
            worker._free(keys, keys, stimulus_id)
            logger.warning(
                "Worker has been paused for %g s or more. Handing back to the scheduler what it "
                "has not begun: %s",
                self.after,
                _described(keys),
            )
        self.look_at_status()


def not_begun(worker: Steering) -> list[Key]:
    """The keys of the tasks that a paused worker can hand back."""
    state = worker.state
    with lock_of(state):
        return [
            ts.key
            for ts in state.tasks.values()
            if ts.state in NOT_BEGUN
            and ts.key not in state.actors
            and not is_by_hand(ts)
            and not users(ts)
        ]


def _described(keys: list[Key]) -> str:
    """The number of tasks of each kind."""
    kinds = Counter(prefix_of(key) for key in keys).most_common()
    named = [f"{n} {kind}" for kind, n in kinds[:NAMED_KINDS]]
    if kinds[NAMED_KINDS:]:
        named.append(f"{sum(n for _, n in kinds[NAMED_KINDS:])} others")
    return ", ".join(named)
