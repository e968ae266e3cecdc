"""fastworker's own figures, on the page of distributed's that Prometheus reads.

They are there if ``prometheus_client`` is installed and ``distributed.worker.http.routes`` has
distributed's page, as by default:

``dask_fastworker_tasks_total{outcome=}``
    Plain tasks that ended, by outcome: success, failed, cancelled.
``dask_fastworker_digest_values_dropped_total``
    Values that are missing from quantiles (but not from sums), for want of room.
``dask_fastworker_outbox_*``
    Every number in the ``metrics`` of the worker's outbox, by its name. Those whose names end in
    ``_total`` only grow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

#: The module that serves distributed's page.
PAGE = "distributed.http.worker.prometheus.core"

_registered = False


def publish() -> None:
    """Have this process's page show fastworker's figures too, if it has one."""
    global _registered
    if _registered or PAGE not in sys.modules:
        return
    from prometheus_client import REGISTRY

    REGISTRY.register(Collector())
    _registered = True


class Collector:
    """Collects the figures of the worker whose page was asked for."""

    def describe(self) -> list[Any]:
        """Nothing that has to be collected in order to be registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures, as metric families of ``prometheus_client``."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        # All workers of a process share the registry. distributed's collector has been told which
        # of them this is about.
        asked = sys.modules[PAGE].PrometheusHandler._collector
        if asked is None or not hasattr(asked.server, "execute_metrics"):
            return
        worker = asked.server
        prefix = "_".join(filter(None, [asked.namespace, "fastworker"]))

        tasks = CounterMetricFamily(
            f"{prefix}_tasks", "Plain tasks that ended, by outcome.", labels=["outcome"]
        )
        for outcome, n in worker.execute_metrics.tasks_total.items():
            tasks.add_metric([outcome], n)
        yield tasks
        yield CounterMetricFamily(
            f"{prefix}_digest_values_dropped",
            "Values that are missing from quantiles, for want of room.",
            value=worker.execute_metrics.dropped,
        )

        figures = getattr(worker.batched_stream, "metrics", None) or {}
        for name, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            label = name.replace("-", "_").removesuffix("_total")
            yield family(
                f"{prefix}_outbox_{label}",
                f"The outbox to the scheduler: {name.replace('_', ' ')}.",
                value=value,
            )
