from fastworker.core.base import Base
from fastworker.core.ready import ReadyQueue
from fastworker.core.task import TaskState

class Planner(Base):
    def _select_keys_for_gather(self, available: ReadyQueue) -> tuple[list[TaskState], int]: ...
    def _should_throttle_incoming_transfers(self) -> bool: ...
