"""A nanny whose worker is fastworker's."""

from __future__ import annotations

from typing import Any

import distributed

from fastworker.comm import use_configured
from fastworker.worker import Worker


class Nanny(distributed.Nanny):
    """``distributed.Nanny`` that starts a ``fastworker.Worker`` in its child process.

    Takes what ``distributed.Nanny`` takes. ``LocalCluster(worker_class=fastworker.Nanny)`` is a
    cluster of worker processes; ``dask worker --worker-class fastworker.Worker`` makes a stock
    nanny with the same worker.
    """

    def __init__(
        self, *args: Any, worker_class: type[distributed.Worker] | None = None, **kwargs: Any
    ) -> None:
        use_configured()
        super().__init__(*args, worker_class=worker_class or Worker, **kwargs)
