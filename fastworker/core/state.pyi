from collections import defaultdict
from collections.abc import Mapping, MutableMapping
from random import Random
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from fastworker.core.counters import TaskCounter
from fastworker.core.lock import Lock
from fastworker.core.log import StimulusLog, TransitionLog
from fastworker.core.ready import ReadyQueue
from fastworker.core.task import TaskState

class PeerQueues(dict[str, ReadyQueue]):
    def __missing__(self, address: str) -> ReadyQueue: ...

class State:
    @property
    def lock(self) -> Lock: ...
    address: str
    data: MutableMapping[Any, Any]
    threads: dict[Any, int]
    plugins: dict[str, WorkerPlugin]
    actors: dict[Any, Any]
    tasks: dict[Any, TaskState]
    nthreads: int
    running: bool
    transfer_incoming_count_limit: int
    transfer_incoming_bytes_limit: float
    transfer_incoming_bytes_throttle_threshold: int
    transfer_message_bytes_limit: float
    total_resources: dict[str, float]
    available_resources: dict[str, float]
    fetch_count: int
    transfer_incoming_count_total: int
    transfer_incoming_bytes: int
    generation: int
    executed_count: int
    nbytes: int
    transition_counter: int
    transition_counter_max: int | bool
    validate: bool
    rng: Random

    def __init__(
        self,
        *,
        nthreads: int = 1,
        address: str | None = None,
        data: MutableMapping[Any, Any] | None = None,
        threads: dict[Any, int] | None = None,
        plugins: dict[str, WorkerPlugin] | None = None,
        resources: Mapping[str, float] | None = None,
        transfer_incoming_count_limit: int = 9999,
        validate: bool = True,
        transition_counter_max: int | bool = False,
        transfer_incoming_bytes_limit: float = ...,
        transfer_message_bytes_limit: float = ...,
    ) -> None: ...
    @property
    def ready(self) -> ReadyQueue: ...
    @property
    def constrained(self) -> ReadyQueue: ...
    @property
    def waiting(self) -> set[TaskState]: ...
    @property
    def executing(self) -> set[TaskState]: ...
    @property
    def long_running(self) -> set[TaskState]: ...
    @property
    def missing_dep_flight(self) -> set[TaskState]: ...
    @property
    def in_flight_tasks(self) -> set[TaskState]: ...
    @property
    def has_what(self) -> defaultdict[str, set[Any]]: ...
    @property
    def data_needed(self) -> PeerQueues: ...
    @property
    def in_flight_workers(self) -> dict[str, set[Any]]: ...
    @property
    def busy_workers(self) -> set[str]: ...
    @property
    def log(self) -> TransitionLog: ...
    @property
    def stimulus_log(self) -> StimulusLog: ...
    @property
    def task_counter(self) -> TaskCounter: ...
