from collections.abc import Mapping
from typing import Any

from distributed.worker_state_machine import Instruction

from fastworker.core.planning import Planner
from fastworker.core.task import TaskState

_Finish = str | tuple[Any, ...]
_RecsInstrs = tuple[dict[TaskState, _Finish], list[Instruction]]

class Machine(Planner):
    def _transitions(
        self, recommendations: Mapping[TaskState, _Finish], *, stimulus_id: str
    ) -> list[Instruction]: ...
    def _transition(
        self, ts: TaskState, finish: _Finish, *args: Any, stimulus_id: str
    ) -> _RecsInstrs: ...
    def _ensure_computing(self) -> _RecsInstrs: ...
    def _ensure_communicating(self, *, stimulus_id: str) -> _RecsInstrs: ...
