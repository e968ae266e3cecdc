"""A cluster on one machine: distributed's, with fastworker's workers and the low-latency lane."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import distributed

from fastworker.deploy.lane import add_lane
from fastworker.nanny import Nanny
from fastworker.scheduler import quicken_as_configured
from fastworker.worker import Worker


class LocalCluster(distributed.LocalCluster):
    """``distributed.LocalCluster`` with fastworker's workers, and the lane in its scheduler.

    Takes the arguments of ``distributed.LocalCluster``, and ``lane``. These differ:

    Parameters
    ----------
    processes
        Whether each worker is a process of its own with a nanny; else the workers are threads of
        this process. Default True, whatever the ``worker_class``.
    worker_class
        The class of the workers; with ``processes``, it may be a class of nannies, too.
        ``fastworker.Worker`` by default.
    scheduler_kwargs
        For the scheduler. The lane is loaded beside the modules that ``preload`` names; by default
        those of ``distributed.scheduler.preload`` in Dask's configuration.
    lane
        Whether to load the low-latency lane into the scheduler, and into the clients that
        ``get_client`` makes.

    Raises
    ------
    TypeError
        ``worker_class`` is neither a class of workers nor one of nannies.
    ValueError
        ``worker_class`` is a nanny, and ``processes`` is False.
    """

    def __init__(
        self,
        name: str | None = None,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool | None = True,
        *args: Any,
        worker_class: type | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        lane: bool = True,
        **kwargs: Any,
    ) -> None:
        scheduler_options = dict(scheduler_kwargs or {})
        if lane:
            add_lane(scheduler_options)
        self.lane = lane
        if processes is None:
            processes = True
        super().__init__(
            name,
            n_workers,
            threads_per_worker,
            processes,
            *args,
            worker_class=_class_to_start(worker_class or Worker, processes),
            scheduler_kwargs=scheduler_options,
            **kwargs,
        )

    def get_client(self) -> distributed.Client:
        """The client of this cluster, with the low-latency lane; it is made if there is none."""
        client: distributed.Client = super().get_client()
        if self.lane:
            quicken_as_configured(client)
        return client


def _class_to_start(worker_class: type, processes: bool) -> Any:
    """What the cluster is to call for each worker."""
    if not isinstance(worker_class, type) or not issubclass(
        worker_class, (distributed.Worker, distributed.Nanny)
    ):
        raise TypeError(f"worker_class must be a class of workers or nannies, not {worker_class!r}")
    if issubclass(worker_class, distributed.Nanny):
        if not processes:
            raise ValueError(
                f"{worker_class.__name__} starts worker processes; without processes, "
                "worker_class has to be a class of workers"
            )
        return worker_class
    return partial(Nanny, worker_class=worker_class) if processes else worker_class
