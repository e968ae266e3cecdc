"""How much spare memory a worker keeps: blocks of received results without views."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from fastworker.comm.arena import bytes_kept, keep_at_most
from fastworker.config import CommSettings

#: Unless configured, the spare memory is at most 1/32 of the process's other memory. It adds to the
#: peak of a job, and a gain in speed is not worth more than a few per cent of that.
SPARE_PART = 32


def give_back() -> None:
    """Free the spare memory when a worker closes. Other workers in the process set it anew."""
    keep_at_most(0)


class SpareMemory:
    """Adapts the process's spare memory to what else there is in it, each time that is measured.

    What is spare never counts against the worker: it is given back before the process comes to
    take as much as makes a worker spill or pause. The event loop's thread measures: the memory
    monitor several times a second, before it decides, and the system monitor. Where several
    workers share a process, the one that has measured last decides.

    Parameters
    ----------
    measure
        A method that returns the bytes of memory that the process takes. By weak reference: its
        object is what calls `measure` of this one.
    memory_limit
        The worker's, in bytes; None for none.
    fractions
        Those of the limit at which something is done about memory; False or None for never.
    """

    def __init__(
        self,
        measure: Callable[[], int],
        memory_limit: int | None,
        fractions: Iterable[float | bool | None],
    ) -> None:
        self._measure = weakref.WeakMethod(measure)
        #: Bytes to keep at most, if configured.
        self.configured = CommSettings.load().spare_memory
        #: Bytes that the process may take with its spare memory; None for any number.
        self.full: float | None = None
        if memory_limit is not None:
            self.full = memory_limit * min((f for f in fractions if f), default=1.0)

    def measure(self) -> int:
        """The process's memory in bytes, after giving back spare memory above the limit."""
        measure = self._measure()
        assert measure is not None, "called by its object"
        kept = bytes_kept()
        used = max(0, measure() - kept)  # another thread may have given some back in between
        most = used // SPARE_PART if self.configured is None else self.configured
        if self.full is not None:
            most = max(0, min(most, int(self.full) - used))
        keep_at_most(most)
        return used + bytes_kept()
