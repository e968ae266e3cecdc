"""How much memory of received results a worker keeps when nobody uses it any more."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from distributed.system import MEMORY_LIMIT

from fastworker.comm.memory import bytes_kept, keep_at_most
from fastworker.config import CommSettings

#: Spare memory, unless configured: this part of the memory limit. A worker without a limit takes
#: the same part of what the machine or container has, and no more than so many bytes.
SPARE_PART = 20
MOST_WITHOUT_LIMIT = 128 << 20


def give_back() -> None:
    """Keep no spare memory: when a worker closes. Others in the process say how much they want."""
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
        configured = CommSettings.load().spare_memory
        default = (
            min(MEMORY_LIMIT // SPARE_PART, MOST_WITHOUT_LIMIT)
            if memory_limit is None
            else memory_limit // SPARE_PART
        )
        self.most = default if configured is None else configured
        #: Bytes that the process may take with its spare memory; None for any number.
        self.full: float | None = None
        if memory_limit is not None:
            self.full = memory_limit * min((f for f in fractions if f), default=1.0)

    def measure(self) -> int:
        """The bytes of memory that the process takes, after giving back what it had better not."""
        measure = self._measure()
        assert measure is not None, "called by its object"
        memory = measure()
        before = bytes_kept()
        most = self.most
        if self.full is not None:
            most = max(0, min(most, int(self.full) - (memory - before)))
        keep_at_most(most)
        return memory - (before - bytes_kept())
