"""A warning for workers that were to be processes, and are in the process of their cluster."""

from __future__ import annotations

import warnings
from weakref import WeakSet

import distributed
from distributed.deploy.spec import SpecCluster

#: Clusters that have been warned of. Only threads of event loops read and write it, in single
#: operations.
_warned: WeakSet[SpecCluster] = WeakSet()


def warn_if_in_process(worker: distributed.Worker) -> None:
    """Warn of ``LocalCluster(processes=True)`` that starts this worker without a process.

    distributed's starts what its ``worker_class`` says, here, and only a nanny makes a process.
    """
    for cluster in list(SpecCluster._instances):
        if (
            isinstance(cluster, distributed.LocalCluster)
            and cluster.processes
            and worker.nanny is None
            and worker.scheduler.address == cluster.scheduler_address
            and cluster not in _warned
        ):
            _warned.add(cluster)
            name = type(worker).__name__
            warnings.warn(
                f"LocalCluster(worker_class={name}, processes=True) runs its workers as threads of "
                "this process: distributed starts processes for nannies only. For worker "
                "processes, write fastworker.LocalCluster(), or "
                "LocalCluster(worker_class=fastworker.Nanny)",
                stacklevel=2,
            )
