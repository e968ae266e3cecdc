"""The worker's figures: distributed's sums and quantiles, with those of plain tasks."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeGuard

from distributed.spans import CONTEXTS_WITH_SPAN_ID

from fastworker.core import WorkerState
from fastworker.execution.timings import ExecuteMetrics

try:
    from distributed.counter import Digest
except ImportError:  # crick is not installed: no server has quantiles
    Digest = None

ByName = MutableMapping[Hashable, float]

#: With more names than this, figures of old spans are merged. A name takes some 900 bytes in all.
MANY_NAMES = 1024


def is_of_a_span(name: Hashable) -> TypeGuard[tuple[Hashable, ...]]:
    """Whether a figure's name is (context, id of a span or None, ...)."""
    return isinstance(name, tuple) and len(name) > 1 and name[0] in CONTEXTS_WITH_SPAN_ID


class Figures:
    """The figures of one worker. Any thread may use them.

    ``digests``, ``digests_total``, ``digests_total_since_heartbeat`` and ``digests_max`` are as
    in ``distributed.core.Server``. Threads count plain tasks in `of_tasks`. Reading one of the
    four moves those figures there first, so that readers always see all of them.
    """

    def __init__(self) -> None:
        #: What plain tasks took since the figures were last read; threads count here.
        self.of_tasks = ExecuteMetrics(durations=Digest is not None)
        # Held by a thread while it takes a task out of the worker's state and counts it
        self._counting: AbstractContextManager[object] = nullcontext()
        self._digests: MutableMapping[Hashable, Any] | None = None
        if Digest is not None:
            self._digests = defaultdict(Digest)
        self._total: ByName = defaultdict(int)
        self._since_heartbeat: ByName = defaultdict(int)
        self._largest: ByName = defaultdict(int)
        # Guards writes to the four mappings, by readers (any thread) and by digest_metric (mostly
        # the event loop). Reentrant, since a finalizer that runs meanwhile may read them too; it
        # finds the figures of that moment (see drain).
        self._lock = threading.RLock()
        self._draining = False
        self._most_names = MANY_NAMES

    def count_with(self, state: object, drain_soon: Callable[[], object]) -> None:
        """Know of the threads that run tasks: of their state, and how to have them drained.

        Parameters
        ----------
        state
            The worker's. Threads count under the lock of a `WorkerState`; no other has threads.
        drain_soon
            Has the event loop call `drain`; any thread may call it.
        """
        if isinstance(state, WorkerState):
            self._counting = state.lock
        self.of_tasks.wake = drain_soon

    def drain(self) -> None:
        """Move the figures of plain tasks into the four mappings."""
        # From here on, every task that has left the state is counted.
        with self._counting:
            pass
        if self.of_tasks.empty and len(self._total) <= self._most_names:
            return
        with self._lock:
            if self._draining:
                return
            self._draining = True
            try:
                if len(self._total) > self._most_names:
                    self._put_spans_together()
                self.of_tasks.drain(
                    self._total, self._since_heartbeat, self._largest, self._digests
                )
            finally:
                self._draining = False

    def _put_spans_together(self) -> None:
        """Merge the oldest figures of spans into those without one, until half the names are left.

        A span ends when the cluster is idle, and the next task begins another; distributed's worker
        keeps the names of all of them. Figures that have changed since the last heartbeat are
        in use, and stay. The caller holds `_lock`.
        """
        total, largest = self._total, self._largest
        for name in list(total):
            if len(total) <= MANY_NAMES // 2:
                break
            if not is_of_a_span(name) or name[1] is None or name in self._since_heartbeat:
                continue
            together = (name[0], None, *name[2:])
            total[together] = total.get(together, 0) + total.pop(name)
            if name in largest:
                largest[together] = max(largest.get(together, 0), largest.pop(name))
        # With many names that stay, the next search waits until as many new ones have come
        self._most_names = max(MANY_NAMES, len(total) + MANY_NAMES // 2)

    def digest_metric(self, name: Hashable, value: float) -> None:
        """Add a value to the figures of that name, as ``distributed.core.Server.digest_metric``.

        Names that carry the id of a span get no quantiles: a `Digest` takes 24 kB, and an idle
        cluster begins a new span with the next task. Nothing in distributed reads them, and a
        worker's page of counters fails to load where there are any, as their names are tuples.
        """
        with self._lock:
            if self._digests is not None and not is_of_a_span(name):
                self._digests[name].add(value)
            self._total[name] += value
            self._since_heartbeat[name] += value
            if value > self._largest[name]:  # as max() of the two, and one look-up less
                self._largest[name] = value

    @property
    def digests(self) -> MutableMapping[Hashable, Any] | None:
        """Quantiles by name, without names of a span; None unless crick is installed."""
        self.drain()
        return self._digests

    @digests.setter
    def digests(self, digests: MutableMapping[Hashable, Any] | None) -> None:
        with self._lock:
            self._digests = digests

    @property
    def digests_total(self) -> ByName:
        """Sums by name since the worker started; figures of old spans are merged without a span."""
        self.drain()
        return self._total

    @digests_total.setter
    def digests_total(self, figures: ByName) -> None:
        with self._lock:
            self._total = figures

    @property
    def digests_total_since_heartbeat(self) -> ByName:
        """Sums by name since the last heartbeat."""
        self.drain()
        return self._since_heartbeat

    @digests_total_since_heartbeat.setter
    def digests_total_since_heartbeat(self, figures: ByName) -> None:
        with self._lock:
            self._since_heartbeat = figures

    @property
    def digests_max(self) -> ByName:
        """The largest value by name."""
        self.drain()
        return self._largest

    @digests_max.setter
    def digests_max(self, figures: ByName) -> None:
        with self._lock:
            self._largest = figures


def kept_in_figures(name: str) -> property:
    """A worker's property that stands for the property of its `Figures` with that name."""

    def read(worker: Any) -> Any:
        return getattr(worker._figures, name)

    def replace(worker: Any, value: Any) -> None:
        setattr(worker._figures, name, value)

    return property(read, replace, doc=getattr(Figures, name).__doc__)
