"""A Cython-accelerated worker for Dask clusters.

``fastworker.Worker`` stands wherever ``distributed.Worker`` does. Importing this package is
cheap: ``distributed`` and the compiled modules load when ``Worker`` is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastworker._version import __version__

if TYPE_CHECKING:
    from fastworker.nanny import Nanny
    from fastworker.worker import Worker, shutdown

__all__ = ["Nanny", "Worker", "__version__", "shutdown"]

_MODULES = {
    "Nanny": "fastworker.nanny",
    "Worker": "fastworker.worker",
    "shutdown": "fastworker.worker",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'fastworker' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
