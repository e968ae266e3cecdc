from collections.abc import Collection, Container, Mapping
from typing import Any, ClassVar

from distributed.worker_state_machine import Instruction, StateMachineEvent

from fastworker.core.ready import ReadyQueue
from fastworker.core.records import _Record
from fastworker.core.state import State
from fastworker.core.task import TaskState

TRANSITIONS: frozenset[tuple[str, str]]

_Finish = str | tuple[Any, ...]
_RecsInstrs = tuple[dict[TaskState, _Finish], list[Instruction]]

class WorkerState(State):
    _TRANSITIONS_TABLE: ClassVar[dict[tuple[str, str], str]]

    def handle_stimulus(self, *stims: StateMachineEvent) -> list[Instruction]: ...
    def handle_events(self, stims: tuple[StateMachineEvent, ...]) -> list[_Record]: ...
    def compute_task(
        self,
        key: Any,
        run_id: int,
        priority: tuple[Any, ...] | list[Any],
        run_spec: Any,
        who_has: Mapping[Any, Collection[str]] | None,
        nbytes: Mapping[Any, int] | None,
        resource_restrictions: dict[str, float] | None,
        actor: bool,
        annotations: dict[str, Any] | None,
        span_id: str | None,
        stimulus_id: str,
    ) -> list[_Record]: ...
    def task_done(
        self,
        key: Any,
        run_id: int,
        value: Any,
        start: float,
        stop: float,
        nbytes: int,
        type: type,
        stimulus_id: str,
    ) -> list[_Record]: ...
    def free_keys(self, keys: Collection[Any], stimulus_id: str) -> list[_Record]: ...
    def _transitions(
        self, recommendations: Mapping[TaskState, _Finish], *, stimulus_id: str
    ) -> list[Instruction]: ...
    def _transition(
        self, ts: TaskState, finish: _Finish, *args: Any, stimulus_id: str
    ) -> _RecsInstrs: ...
    def _ensure_computing(self) -> _RecsInstrs: ...
    def _ensure_communicating(self, *, stimulus_id: str) -> _RecsInstrs: ...
    def _select_keys_for_gather(self, available: ReadyQueue) -> tuple[list[TaskState], int]: ...
    def _should_throttle_incoming_transfers(self) -> bool: ...
    @property
    def executing_count(self) -> int: ...
    @property
    def all_running_tasks(self) -> set[TaskState]: ...
    @property
    def in_flight_tasks_count(self) -> int: ...
    @property
    def transfer_incoming_count(self) -> int: ...
    def _update_who_has(self, who_has: Mapping[Any, Collection[str]]) -> None: ...
    def story(self, *keys_or_tasks_or_stimuli: Any) -> list[tuple[Any, ...]]: ...
    def stimulus_story(self, *keys_or_tasks: Any) -> list[StateMachineEvent]: ...
    def validate_task(self, ts: TaskState) -> None: ...
    def validate_state(self) -> None: ...
    def _to_dict(self, *, exclude: Container[str] = ()) -> dict[str, Any]: ...
