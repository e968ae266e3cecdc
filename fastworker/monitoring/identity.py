"""How a worker identifies itself: as fastworker, with its version and its comm.

``client.scheduler_info()``, cluster dumps and the log of the start have version and comm of each
worker, ``client.get_versions()`` has the version. It is not among the packages there unless asked
for: Dask warns of packages that differ between client, scheduler and workers, and only workers need
fastworker.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from distributed.comm import parse_address

from fastworker._version import __version__
from fastworker.comm import in_use
from fastworker.config.logs import get_logger

if TYPE_CHECKING:
    import distributed

logger = get_logger("worker")

#: The name of the version in a worker's identity.
FASTWORKER = "fastworker"
VERSION = {FASTWORKER: __version__}
#: The name of the comm in ``scheduler_info()``.
COMM = "fastworker_comm"


def identity_of(worker: distributed.Worker) -> dict[str, str]:
    """What the identity of a worker has beside distributed's."""
    return {**VERSION, COMM: comm_to(worker.scheduler.address)}


def comm_to(address: str) -> str:
    """What connections to an address are now: ``native``, ``tornado`` (distributed's), another
    class, or the scheme of an address that is neither tcp nor tls, such as ``inproc``.
    """
    scheme: str = parse_address(address)[0]
    return in_use().get(scheme, scheme)


def introduce(worker: distributed.Worker) -> None:
    """Have a new worker tell the scheduler its version and comm, unless its user gave others.

    ``client.get_worker_logs()`` will have fastworker's lines too, beside distributed's.
    """
    for name in (FASTWORKER, COMM):
        worker.startup_information.setdefault(name, lambda w, name=name: identity_of(w)[name])
    ours = get_logger("worker").parent
    assert ours is not None
    ours.addHandler(worker._deque_handler)
    weakref.finalize(worker, ours.removeHandler, worker._deque_handler)


def log_start(worker: distributed.Worker) -> None:
    """Log version and comm, aligned with the lines of distributed that follow."""
    ours = identity_of(worker)
    logger.info("           fastworker: %26s", f"{ours[FASTWORKER]}, comm: {ours[COMM]}")
