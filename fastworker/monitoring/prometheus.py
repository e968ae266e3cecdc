"""fastworker's own figures, on distributed's page for Prometheus.

The page has them if ``prometheus_client`` is installed and ``distributed.worker.http.routes`` has
distributed's page, as by default:

``dask_fastworker_info{version=}``
    Always 1; the label is the version of fastworker.
``dask_fastworker_tasks_total{outcome=}``
    Plain tasks that ended, by outcome: success, failed, cancelled.
``dask_fastworker_digest_values_dropped_total``
    Values that are missing from quantiles (not from sums), because the buffer was full.
``dask_fastworker_outbox_waiting_messages``, ``dask_fastworker_outbox_waiting_bytes``
    Messages to the scheduler that are not sent yet, and their bytes.
``dask_fastworker_outbox_*_total``
    The other numbers in ``worker.batched_stream.metrics``, by their names there.
``dask_fastworker_outbox_batch_size``
    A histogram of the number of messages in a batch.
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
    """Add fastworker's figures to this process's page, if it has one."""
    global _registered
    if _registered or PAGE not in sys.modules:
        return
    from prometheus_client import REGISTRY

    REGISTRY.register(Collector())
    _registered = True


class Collector:
    """Collects the figures of the worker whose page is requested."""

    def describe(self) -> list[Any]:
        """No names: the registry need not collect in order to register."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures, as metric families of ``prometheus_client``."""
        from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

        # All workers of a process share the registry; distributed's collector holds the one whose
        # page is requested.
        asked = sys.modules[PAGE].PrometheusHandler._collector
        if asked is None or not hasattr(asked.server, "execute_metrics"):
            return
        worker = asked.server
        prefix = "_".join(filter(None, [asked.namespace, "fastworker"]))

        yield InfoMetricFamily(prefix, "The version of fastworker.", value={"version": __version__})
        tasks = CounterMetricFamily(
            f"{prefix}_tasks", "Plain tasks that ended, by outcome.", labels=["outcome"]
        )
        for outcome, n in worker.execute_metrics.tasks_total.items():
            tasks.add_metric([outcome], n)
        yield tasks
        yield CounterMetricFamily(
            f"{prefix}_digest_values_dropped",
            "Durations of tasks that are missing from quantiles, because the buffer was full.",
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
