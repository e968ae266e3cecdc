"""A Cython-accelerated worker for Dask clusters.

Use ``fastworker.Worker`` in the place of ``distributed.Worker``, and ``fastworker.LocalCluster``
in that of ``distributed.LocalCluster``. Importing this package is cheap: the classes and the
subpackages ``comm``, ``core`` and ``scheduler`` load, with ``distributed`` and the compiled
modules, when they are first accessed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastworker._version import __version__

if TYPE_CHECKING:
    from fastworker import comm, core, scheduler
    from fastworker.deploy.local import LocalCluster
    from fastworker.nanny import Nanny
    from fastworker.worker import Worker, shutdown

__all__ = [
    "LocalCluster",
    "Nanny",
    "Worker",
    "__version__",
    "comm",
    "core",
    "scheduler",
    "shutdown",
]

_MODULES = {
    "LocalCluster": "fastworker.deploy.local",
    "Nanny": "fastworker.nanny",
    "Worker": "fastworker.worker",
    "shutdown": "fastworker.worker",
    # Dask calls these for `--preload fastworker`, which means `--preload fastworker.scheduler`.
    "dask_setup": "fastworker.scheduler",
    "dask_teardown": "fastworker.scheduler",
}

_SUBPACKAGES = ("comm", "core", "scheduler")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from fastworker.config.versions import check_distributed

        check_distributed()
        return getattr(import_module(_MODULES[name]), name)
    if name in _SUBPACKAGES:
        return import_module(f"fastworker.{name}")
    raise AttributeError(
        f"module 'fastworker' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
