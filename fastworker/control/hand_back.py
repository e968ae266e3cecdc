"""Handing back what a paused worker has not begun.

A worker that pauses, since its memory is nearly full, keeps the tasks that it has not begun.
Stock's scheduler gives it no new ones, but takes those away only where it steals: never from a
worker with no more tasks than threads. If what fills the memory is a leak, they wait forever. So a
worker that stays paused releases them, and then asks the scheduler to reschedule them.

The order makes every race harmless. The worker decides, releases and sends in one go on its event
loop, where alone a pause ends, so that no task begins meanwhile. The scheduler has heard of the
pause before, on the same stream, so it sends the tasks elsewhere, or keeps them (queued, no-worker)
until a worker that may run them is running, this one included. It ignores the message for a task
that it has taken away meanwhile. What it had sent about the task before finds nothing here, and
what it sends to have the task run here again comes after. Nothing of this counts as a failure of
the task, or as a retry.

These stay:

- what runs, or is in the hands of a transfer: its end is an event that the worker has to wait for;
- actors: the scheduler keeps an actor's worker in its books when the actor is rescheduled;
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

#: Stock's property, whatever its module calls Worker later: a user may put ours in its place.
_stock_status = distributed.Worker.status

#: A task in one of these states has not begun, and no event of its own is due.
NOT_BEGUN = frozenset({"constrained", "ready", "waiting"})

#: How many kinds of tasks to name in the log.
NAMED_KINDS = 5


class HandBack(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        loop: IOLoop

    #: Seconds for which the worker has to be paused; None never to hand anything back.
    _hand_back_after: float | None = None
    _hand_back_timer: object = None

    @_stock_status.setter  # type: ignore[untyped-decorator]
    def status(self, value: Status) -> None:
        """As stock's, and sees to it that a pause has its time taken.

        To be set in the thread of the event loop.
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
        """Hand back what there is, and what comes late or could not go yet the next time."""
        self._hand_back_timer = None
        keys = self._not_begun()
        if keys:
            stimulus_id = new_stimulus_id("hand-back")
            # Not with the lock held: it may spill, or call plugins
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
