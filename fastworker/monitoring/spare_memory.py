"""Giving back the comm's spare memory whenever the process's memory is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask

from fastworker.comm import SpareMemory

if TYPE_CHECKING:
    from distributed.system_monitor import SystemMonitor
    from distributed.worker_memory import WorkerMemoryManager


def watch_spare_memory(monitor: SystemMonitor, memory: WorkerMemoryManager) -> None:
    """Have the comm give back spare memory before a worker spills, pauses or ends for its sake.

    distributed measures the process with ``monitor.get_process_memory``, for all purposes.
    """
    spare = SpareMemory(
        monitor.get_process_memory,
        memory.memory_limit,
        (
            memory.memory_target_fraction,
            memory.memory_spill_fraction,
            memory.memory_pause_fraction,
            dask.config.get("distributed.worker.memory.terminate"),
        ),
    )
    monitor.get_process_memory = spare.measure
