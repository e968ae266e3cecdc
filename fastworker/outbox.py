"""The worker's messages to the scheduler, without a timer in the way of a worker that has time."""

from __future__ import annotations

from distributed.batched import BatchedSend


class Outbox(BatchedSend):
    """A ``BatchedSend`` whose wait can be cut short.

    Stock's sends the first message at once and then nothing for an interval, however idle both
    ends are. Here `flush` ends the interval. All writing is still done by the one coroutine of
    ``BatchedSend``, which takes the buffer as a whole and never writes twice at a time; so order,
    closing, aborting and errors are stock's too.

    Belongs to the thread of the event loop.
    """

    next_deadline: float | None

    def flush(self) -> None:
        """Send what there is, right after the write under way if there is one."""
        if self.buffer and self.next_deadline is not None:
            # How BatchedSend's coroutine knows that there is nothing to wait for
            self.next_deadline = None
            self.waker.set()
