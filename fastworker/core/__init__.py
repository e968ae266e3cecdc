"""The sans-I/O core: task states, transitions, the ready queue and fetch planning."""

from distributed.worker_state_machine import TaskState, WorkerState

__all__ = ["TaskState", "WorkerState"]
