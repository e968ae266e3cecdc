import asyncio
from collections.abc import Callable
from contextvars import Context

from dask.typing import Key
from distributed.core import Status
from distributed.worker_state_machine import StateMachineEvent

from fastworker.core import WorkerState
from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.execution.pool import PullThreadPoolExecutor
from fastworker.worker import Worker

RUN_ID_SENTINEL: int
WORKER_ANY_RUNNING: set[Status]
NOT_CALLED: frozenset[str]

class Engine:
    def __init__(
        self, worker: Worker, state: WorkerState, pool: PullThreadPoolExecutor
    ) -> None: ...
    @property
    def worker(self) -> Worker: ...
    @property
    def state(self) -> WorkerState: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def context(self) -> Context | None: ...
    @property
    def replaced(self) -> bool: ...
    @property
    def broken_by(self) -> tuple[Key, ...]: ...
    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def handle(self, *stims: StateMachineEvent) -> None: ...
    def take_on(self, messages: list[ComputeTask | FreeKeys]) -> None: ...
    def look_at_methods(self) -> None: ...
    finished: Callable[[StateMachineEvent], None] | None
