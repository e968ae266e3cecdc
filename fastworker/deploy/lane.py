"""The lane among the modules that a scheduler is to preload."""

from __future__ import annotations

from typing import Any

import dask

LANE = "fastworker.scheduler"

#: What loads the lane, too.
NAMES = ("fastworker", LANE)


def add_lane(options: dict[str, Any]) -> None:
    """Add the lane to the modules that a scheduler preloads.

    ``options`` are arguments of ``distributed.Scheduler``. Where they name no modules, the
    scheduler would take those of ``distributed.scheduler.preload`` in Dask's configuration, and
    their arguments; these stay. Nothing changes if the lane is among them.
    """
    preload = options.get("preload") or dask.config.get("distributed.scheduler.preload")
    modules = [preload] if isinstance(preload, str) else list(preload)
    arguments = options.get("preload_argv") or dask.config.get("distributed.scheduler.preload-argv")
    if not any(name in modules for name in NAMES):
        modules.append(LANE)
        if arguments and not isinstance(arguments[0], str):  # a list for each module
            options["preload_argv"] = [*arguments, []]
    options["preload"] = modules
