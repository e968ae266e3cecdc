"""Reports to the scheduler how long tasks took, span by span."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from distributed.spans import CONTEXTS_WITH_SPAN_ID, SpansWorkerExtension


class SpansExtension(SpansWorkerExtension):
    """distributed's extension, without the figures of tasks that belong to no span.

    Those are tasks that were added on the worker by hand. The scheduler fails on a heartbeat with
    such a figure, and the worker closes when its heartbeat fails. The figures are still in the
    worker's metrics and in the sums that go to the scheduler.
    """

    def collect_digests(self, digests_total_since_heartbeat: Mapping[Hashable, float]) -> None:
        super().collect_digests(
            {
                name: value
                for name, value in digests_total_since_heartbeat.items()
                if not (
                    isinstance(name, tuple) and name[0] in CONTEXTS_WITH_SPAN_ID and name[1] is None
                )
            }
        )
