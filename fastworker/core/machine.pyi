from collections.abc import Mapping
from typing import Any

from distributed.worker_state_machine import Instruction

from fastworker.core.planning import Planner
from fastworker.core.task import TaskState

Finish = str | tuple[Any, ...]
RecsInstrs = tuple[dict[TaskState, Finish], list[Instruction]]

class Machine(Planner):
    def _transitions(
        self, recommendations: Mapping[TaskState, Finish], *, stimulus_id: str
    ) -> list[Instruction]: ...
    def _transition(
        self, ts: TaskState, finish: Finish, *args: Any, stimulus_id: str
    ) -> RecsInstrs: ...
    def _ensure_computing(self) -> RecsInstrs: ...
    def _ensure_communicating(self, *, stimulus_id: str) -> RecsInstrs: ...
