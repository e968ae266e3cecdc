"""The sans-I/O core: task states, transitions, the ready queue and fetch planning.

`WorkerState` takes the events of ``distributed.worker_state_machine`` and returns that module's
instructions; it does no I/O, starts no threads and never runs a task.
"""

from fastworker.core.ready import ReadyQueue
from fastworker.core.states import STATES
from fastworker.core.task import TaskState, reset_serial
from fastworker.core.transitions import TRANSITIONS
from fastworker.core.worker_state import WorkerState

__all__ = ["STATES", "TRANSITIONS", "ReadyQueue", "TaskState", "WorkerState", "reset_serial"]
