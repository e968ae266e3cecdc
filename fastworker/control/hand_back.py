"""Handing back the tasks that a paused worker has not begun.

A worker that pauses, since its memory is nearly full, keeps the tasks that it has not begun.
Stock's scheduler gives it no new ones, but takes those away only by stealing: never from a worker
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

import distributed
from distributed.core import Status
from distributed.worker_state_machine import FreeKeysEvent

from fastworker.config.logs import get_logger
from fastworker.control.steering import Steering, locked, new_stimulus_id, users
from fastworker.core.counters import prefix_of

if TYPE_CHECKING:
    from dask.typing import Key
    from tornado.ioloop import IOLoop

logger = get_logger("memory")

#: Read at import: a user may put our class into the place of distributed.Worker later.
_stock_status = distributed.Worker.status

#: A task in one of these states has not begun, and no event will end it.
NOT_BEGUN = frozenset({"constrained", "ready", "waiting"})

#: How many kinds of tasks to name in the log.
NAMED_KINDS = 5


class HandBack(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        loop: IOLoop

    #: Seconds of pause after which the worker hands tasks back; None: never.
    _hand_back_after: float | None = None
    _hand_back_timer: object = None

    @_stock_status.setter  # type: ignore[untyped-decorator]
    def status(self, value: Status) -> None:
        """As ``distributed.Worker.status``; setting it starts or stops the timer of a pause.

        Only the thread of the event loop may set it.
        """
        _stock_status.__set__(self, value)
        if self.status != Status.paused:
            if self._hand_back_timer is not None:
                self.loop.remove_timeout(self._hand_back_timer)
                self._hand_back_timer = None
        elif self._hand_back_timer is None:
            self._hand_back_later()

    def _hand_back_later(self) -> None:
        if self._hand_back_after is not None:
            self._hand_back_timer = self.loop.call_later(self._hand_back_after, self._hand_back)

    def _hand_back(self) -> None:
        """Hand back what has not begun; later, what has come or become free since."""
        self._hand_back_timer = None
        keys = self._not_begun()
        if keys:
            stimulus_id = new_stimulus_id("hand-back")
            # The lock is not held: this may spill, or call plugins
            self.handle_stimulus(FreeKeysEvent(keys=keys, stimulus_id=stimulus_id))
            self._reschedule(keys, stimulus_id)
            logger.warning(
                "Worker has been paused for %g s or more. Handing back to the scheduler what it "
                "has not begun: %s",
                self._hand_back_after,
                _described(keys),
            )
        if self.status == Status.paused and self._hand_back_timer is None:
            self._hand_back_later()

    @locked
    def _not_begun(self) -> list[Key]:
        return [
            ts.key
            for ts in self.state.tasks.values()
            if ts.state in NOT_BEGUN
            and ts.key not in self.state.actors
            and ts.key not in self.by_hand
            and not users(ts)
        ]


def _described(keys: list[Key]) -> str:
    """The number of tasks of each kind."""
    kinds = Counter(prefix_of(key) for key in keys).most_common()
    named = [f"{n} {kind}" for kind, n in kinds[:NAMED_KINDS]]
    if kinds[NAMED_KINDS:]:
        named.append(f"{sum(n for _, n in kinds[NAMED_KINDS:])} others")
    return ", ".join(named)
