"""What a worker tells the scheduler of the time that its tasks took, span by span."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from distributed.spans import CONTEXTS_WITH_SPAN_ID, SpansWorkerExtension


class SpansExtension(SpansWorkerExtension):
    """Keeps to itself the time of tasks that belong to no span.

    Those are the tasks that were added on the worker by hand. A scheduler takes a heartbeat with
    such a time for an error, and the worker whose heartbeat fails closes. Their time is still in
    the worker's own metrics and in the sums that go to the scheduler.
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
