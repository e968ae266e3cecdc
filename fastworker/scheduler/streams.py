"""Streams that send at once while both ends are idle.

``distributed.batched.BatchedSend`` sends the first message at once and then nothing for an
interval, however idle both ends are. An ``EagerSend`` ends the interval early: the message leaves,
with the others of the same turn of the event loop, as soon as no other write is under way. Under
load the interval makes messages share a write, so it stays:

- one stream sends early only so many times in an interval (``Pace``), and
- no stream does while the thread of the event loop is busy (``LoopLoad``).

distributed's one sender coroutine per stream does all the writing. It takes the whole buffer and
never writes twice at a time, so order, closing, aborting and errors are distributed's.

Everything here runs on the thread of the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time

from distributed.batched import BatchedSend

WINDOW = 0.005
"""Seconds over which the load of the loop is measured, at least."""


class LoopLoad:
    """Measures, when asked and on its thread, whether the thread of this event loop is busy.

    ``limit`` is the share of a CPU above which it is. The clocks give seconds.
    """

    def __init__(
        self,
        limit: float,
        clock: Callable[[], float] = perf_counter,
        cpu_clock: Callable[[], float] = thread_time,
    ) -> None:
        self.limit = limit
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._since: float | None = None
        self._cpu_since = 0.0
        self._busy = False

    def busy(self) -> bool:
        """Whether the last full window was above the limit."""
        now = self._clock()
        if self._since is None:
            self._since, self._cpu_since = now, self._cpu_clock()
        elif now - self._since >= WINDOW:
            cpu = self._cpu_clock()
            self._busy = cpu - self._cpu_since > self.limit * (now - self._since)
            self._since, self._cpu_since = now, cpu
        return self._busy


class Pace:
    """How often one stream may send early: ``burst`` times in ``interval`` seconds."""

    __slots__ = ("_clock", "_ends", "_left", "burst", "interval", "load")

    def __init__(
        self,
        load: LoopLoad,
        burst: int,
        interval: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.load = load
        self.burst = burst
        self.interval = interval
        self._clock = clock
        self._ends = float("-inf")
        self._left = 0

    def take(self) -> bool:
        """Take one early send, if there is one left and the loop is not busy."""
        now = self._clock()
        if now >= self._ends:
            self._ends, self._left = now + self.interval, self.burst
        if not self._left or self.load.busy():
            return False
        self._left -= 1
        return True


class EagerSend(BatchedSend):
    """A BatchedSend that may end its interval early; ``quicken`` makes it of a live one."""

    pace: Pace
    next_deadline: float | None

    def send(self, *msgs: object) -> None:
        """As BatchedSend.send: CommClosedError when the comm is closed."""
        super().send(*msgs)
        # Without a deadline the sender has been woken already, and takes all there is.
        if self.next_deadline is not None and self.pace.take():
            # As distributed's sender does when the interval is over. If it is writing just now, the
            # interval that it has set ends with the write.
            self.next_deadline = None
            self.waker.set()


def quicken(stream: BatchedSend, load: LoopLoad, burst: int) -> bool:
    """Make an EagerSend of a live BatchedSend; False if it is of another class.

    The object stays the same: other objects of the scheduler hold references to it, and its sender
    coroutine runs already. Only the class makes it quick, so restoring the class restores it.
    """
    if type(stream) is not BatchedSend:
        return False
    stream.pace = Pace(load, burst, stream.interval)
    stream.__class__ = EagerSend
    return True


def slow_down(stream: BatchedSend) -> None:
    """Undo ``quicken``; nothing happens to a stream that is not an EagerSend."""
    if type(stream) is EagerSend:
        stream.__class__ = BatchedSend
        del stream.pace
