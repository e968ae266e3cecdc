"""fastworker's own figures, on the page of distributed's that Prometheus reads.

They are there if ``prometheus_client`` is installed and ``distributed.worker.http.routes`` has
distributed's page, as by default:

``dask_fastworker_info{version=}``
    1, of the version of fastworker that the worker is of.
``dask_fastworker_tasks_total{outcome=}``
    Plain tasks that ended, by outcome: success, failed, cancelled.
``dask_fastworker_digest_values_dropped_total``
    Values that are missing from quantiles (but not from sums), for want of room.
``dask_fastworker_outbox_waiting_messages``, ``dask_fastworker_outbox_waiting_bytes``
    What waits to be sent to the scheduler.
``dask_fastworker_outbox_*_total``
    The other numbers in ``worker.batched_stream.metrics``, by their names there.
``dask_fastworker_outbox_batch_size``
    A histogram of how many messages left together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from fastworker._version import __version__

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
        from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

        # All workers of a process share the registry. distributed's collector has been told which
        # of them this is about.
        asked = sys.modules[PAGE].PrometheusHandler._collector
        if asked is None or not hasattr(asked.server, "execute_metrics"):
            return
        worker = asked.server
        prefix = "_".join(filter(None, [asked.namespace, "fastworker"]))

        yield InfoMetricFamily(
            prefix, "The fastworker that this worker is.", value={"version": __version__}
        )
        tasks = CounterMetricFamily(
            f"{prefix}_tasks", "Plain tasks that ended, by outcome.", labels=["outcome"]
        )
        for outcome, n in worker.execute_metrics.tasks_total.items():
            tasks.add_metric([outcome], n)
        yield tasks
        yield CounterMetricFamily(
            f"{prefix}_digest_values_dropped",
            "Durations of tasks that are missing from quantiles, for want of room.",
            value=worker.execute_metrics.dropped,
        )

        yield from _outbox(f"{prefix}_outbox", worker.batched_stream.metrics)


def _outbox(prefix: str, metrics: dict[str, Any]) -> Iterator[Any]:
    """The figures of an outbox, see ``Outbox.metrics``."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for name, value in metrics.items():
        what = f"The outbox to the scheduler: {name.replace('_', ' ')}."
        if name == "batch_sizes":
            buckets = []
            so_far = 0
            for least, n in value.items():
                so_far += n
                buckets.append((str(2 * least - 1), so_far))
            buckets.append(("+Inf", so_far))
            yield HistogramMetricFamily(f"{prefix}_batch_size", what, buckets, sum_value=None)
        elif name.startswith("waiting"):
            yield GaugeMetricFamily(f"{prefix}_{name}", what, value)
        else:
            yield CounterMetricFamily(f"{prefix}_{name}", what, value)
