"""What a worker says that it is: fastworker, of which version, and with which comm."""

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

#: The name under which the version stands in what a worker tells of itself.
FASTWORKER = "fastworker"
#: The name under which the comm stands in ``scheduler_info()``.
COMM = "fastworker_comm"


class Identity:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``.

    The version is in ``client.get_versions()`` and ``client.scheduler_info()``, for each worker,
    in cluster dumps and in the log of the start; the comm is in all of them but the first. Among
    the packages of ``get_versions`` the version is only if asked for: Dask warns where those of a
    client, a scheduler and workers differ, and only workers need this one.
    """

    if TYPE_CHECKING:
        _deque_handler: logging.Handler
        startup_information: dict[str, Callable[..., Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.startup_information.setdefault(FASTWORKER, _version_of)
        self.startup_information.setdefault(COMM, _comm_of)
        # For client.get_worker_logs(), as what distributed logs
        ours = get_logger("worker").parent
        assert ours is not None
        ours.addHandler(self._deque_handler)
        weakref.finalize(self, ours.removeHandler, self._deque_handler)

    def versions(self, packages: Iterable[str] | None = None) -> dict[str, Any]:
        """Versions of what is installed here, and of fastworker."""
        versions: dict[str, Any] = super().versions(packages=packages)  # type: ignore[misc]
        return {**versions, FASTWORKER: _version.__version__}

    def identity(self) -> dict[str, Any]:
        """What the worker is, in a few words; part of its dump."""
        ours = {FASTWORKER: _version.__version__, COMM: _comm_of(self)}
        return {**super().identity(), **ours}  # type: ignore[misc]

    async def start_unsafe(self) -> Any:
        """Start, and say in the log what starts."""
        # In line with the lines that follow it
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
