"""How a worker identifies itself: as fastworker, with its version and its comm."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed.comm import parse_address

from fastworker import _version
from fastworker.comm import in_use
from fastworker.config.logs import get_logger

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

logger = get_logger("worker")

#: The name of the version in a worker's identity.
FASTWORKER = "fastworker"
#: The name of the comm in ``scheduler_info()``.
COMM = "fastworker_comm"


class Identity:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``.

    ``client.scheduler_info()``, cluster dumps and the log of the start have version and comm of
    each worker, ``client.get_versions()`` has the version. It is not among the packages there
    unless asked for: Dask warns of packages that differ between client, scheduler and workers, and
    only workers need fastworker.
    """

    if TYPE_CHECKING:
        _deque_handler: logging.Handler
        startup_information: dict[str, Callable[..., Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.startup_information.setdefault(FASTWORKER, _version_of)
        self.startup_information.setdefault(COMM, _comm_of)
        # client.get_worker_logs() has fastworker's lines too, beside distributed's
        ours = get_logger("worker").parent
        assert ours is not None
        ours.addHandler(self._deque_handler)
        weakref.finalize(self, ours.removeHandler, self._deque_handler)

    def versions(self, packages: Iterable[str] | None = None) -> dict[str, Any]:
        """As ``distributed.Worker.versions``, with the version of fastworker."""
        versions: dict[str, Any] = super().versions(packages=packages)  # type: ignore[misc]
        return {**versions, FASTWORKER: _version.__version__}

    def identity(self) -> dict[str, Any]:
        """As ``distributed.Worker.identity``, with the version of fastworker and the comm."""
        ours = {FASTWORKER: _version.__version__, COMM: _comm_of(self)}
        return {**super().identity(), **ours}  # type: ignore[misc]

    async def start_unsafe(self) -> Any:
        """Log version and comm, and start."""
        # Aligned with the lines of distributed that follow
        told = f"{_version.__version__}, comm: {_comm_of(self)}"
        logger.info("           fastworker: %26s", told)
        return await super().start_unsafe()  # type: ignore[misc]


def _version_of(worker: Any) -> str:
    return _version.__version__


def _comm_of(worker: Any) -> str:
    """What the worker's connections are now: ``native``, ``tornado`` (distributed's), another
    class, or the scheme of an address that is neither tcp nor tls, such as ``inproc``.
    """
    scheme: str = parse_address(worker.scheduler.address)[0]
    return in_use().get(scheme, scheme)
