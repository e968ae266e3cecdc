"""The worker's figures: distributed's sums and quantiles, with those of plain tasks."""

from __future__ import annotations

import threading
from collections.abc import Hashable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeGuard

from distributed.spans import CONTEXTS_WITH_SPAN_ID

from fastworker.core import WorkerState
from fastworker.execution.timings import ExecuteMetrics
from fastworker.monitoring import prometheus

try:
    from distributed.counter import Digest
except ImportError:  # crick is not installed: no server has quantiles
    Digest = None

Figures = MutableMapping[Hashable, float]

#: With more names than this, figures of old spans are merged. A name takes some 900 bytes in all.
MANY_NAMES = 1024


def is_of_a_span(name: Hashable) -> TypeGuard[tuple[Hashable, ...]]:
    """Whether a figure's name is (context, id of a span or None, ...)."""
    return isinstance(name, tuple) and len(name) > 1 and name[0] in CONTEXTS_WITH_SPAN_ID


class Metrics:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``.

    ``digests``, ``digests_total``, ``digests_total_since_heartbeat`` and ``digests_max`` are as
    in ``distributed.core.Server``. Threads count plain tasks in `execute_metrics`. Reading one of
    the four moves those figures there first, so that readers always see all of them.
    """

    #: What plain tasks took since the figures were last read; threads count here.
    execute_metrics: ExecuteMetrics

    _digests: MutableMapping[Hashable, Any] | None
    _digests_total: Figures
    _digests_total_since_heartbeat: Figures
    _digests_max: Figures

    if TYPE_CHECKING:
        loop: Any
        state: Any  # WorkerState, or distributed's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.execute_metrics = ExecuteMetrics(durations=Digest is not None)
        # Guards writes to the four mappings, by readers (any thread) and by digest_metric (mostly
        # the event loop). Reentrant, since a finalizer that runs meanwhile may read them too; it
        # finds the figures of that moment (see _drain).
        self._metrics_lock = threading.RLock()
        self._draining = False
        self._most_names = MANY_NAMES
        super().__init__(*args, **kwargs)
        self.execute_metrics.wake = self._drain_soon

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Serve the worker's pages; Prometheus finds fastworker's own figures there too."""
        super().start_http_server(*args, **kwargs)  # type: ignore[misc]
        prometheus.publish()

    def _drain_soon(self) -> None:
        """Have the event loop drain. Any thread may call it; no effect once the loop is closed."""
        self.loop.add_callback(self._drain)

    def _drain(self) -> None:
        """Move the figures of plain tasks into the four mappings."""
        if isinstance(self.state, WorkerState):
            # A thread takes a task out of the state and counts it under the state's lock: once we
            # have had the lock, no task that has left the state is uncounted.
            with self.state.lock:
                pass
        if self.execute_metrics.empty and len(self._digests_total) <= self._most_names:
            return
        with self._metrics_lock:
            if self._draining:
                return
            self._draining = True
            try:
                if len(self._digests_total) > self._most_names:
                    self._put_spans_together()
                self.execute_metrics.drain(
                    self._digests_total,
                    self._digests_total_since_heartbeat,
                    self._digests_max,
                    self._digests,
                )
            finally:
                self._draining = False

    def _put_spans_together(self) -> None:
        """Merge the oldest figures of spans into those without one, until half the names are left.

        A span ends when the cluster is idle, and the next task begins another; distributed's worker
        keeps the names of all of them. Figures that have changed since the last heartbeat are in
        use, and stay. The caller holds `_metrics_lock`.
        """
        total, largest = self._digests_total, self._digests_max
        for name in list(total):
            if len(total) <= MANY_NAMES // 2:
                break
            if (
                not is_of_a_span(name)
                or name[1] is None
                or name in self._digests_total_since_heartbeat
            ):
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
        with self._metrics_lock:
            if self._digests is not None and not is_of_a_span(name):
                self._digests[name].add(value)
            self._digests_total[name] += value
            self._digests_total_since_heartbeat[name] += value
            self._digests_max[name] = max(self._digests_max[name], value)

    @property
    def digests(self) -> MutableMapping[Hashable, Any] | None:
        """Quantiles by name, without names of a span; None unless crick is installed."""
        self._drain()
        return self._digests

    @digests.setter
    def digests(self, digests: MutableMapping[Hashable, Any] | None) -> None:
        with self._metrics_lock:
            self._digests = digests

    @property
    def digests_total(self) -> Figures:
        """Sums by name since the worker started; figures of old spans are merged without a span."""
        self._drain()
        return self._digests_total

    @digests_total.setter
    def digests_total(self, figures: Figures) -> None:
        with self._metrics_lock:
            self._digests_total = figures

    @property
    def digests_total_since_heartbeat(self) -> Figures:
        """Sums by name since the last heartbeat."""
        self._drain()
        return self._digests_total_since_heartbeat

    @digests_total_since_heartbeat.setter
    def digests_total_since_heartbeat(self, figures: Figures) -> None:
        with self._metrics_lock:
            self._digests_total_since_heartbeat = figures

    @property
    def digests_max(self) -> Figures:
        """The largest value by name."""
        self._drain()
        return self._digests_max

    @digests_max.setter
    def digests_max(self, figures: Figures) -> None:
        with self._metrics_lock:
            self._digests_max = figures
