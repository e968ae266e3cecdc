from collections.abc import Container, Iterator
from dataclasses import Field
from typing import Any, ClassVar

_Class = type  # TaskState has an attribute of that name

FIELDS: dict[str, Field[Any]]

def reset_serial(serial: int = 0) -> None: ...

class TaskExtras: ...

class TaskInstances:
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[TaskState]: ...
    def __contains__(self, ts: object, /) -> bool: ...
    def clear(self) -> None: ...

class TaskState:
    key: Any
    run_id: int
    run_spec: Any
    dependencies: set[TaskState]
    dependents: set[TaskState]
    waiting_for_data: set[TaskState]
    waiters: set[TaskState]
    state: str
    previous: str | None
    next: str | None
    priority: tuple[Any, ...] | None
    who_has: set[str]
    coming_from: str | None
    resource_restrictions: dict[str, float]
    exception: Any
    traceback: Any
    exception_text: str
    traceback_text: str
    type: _Class | None
    suspicious_count: int
    startstops: list[dict[str, Any]]
    start_time: float | None
    stop_time: float | None
    metadata: dict[str, Any]
    nbytes: int | None
    annotations: dict[str, Any] | None
    span_id: str | None
    done: bool
    by_hand: bool
    _instances: ClassVar[TaskInstances]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(
        self,
        key: Any,
        run_id: int = -1,
        run_spec: Any = None,
        dependencies: set[TaskState] | None = None,
        dependents: set[TaskState] | None = None,
        waiting_for_data: set[TaskState] | None = None,
        waiters: set[TaskState] | None = None,
        state: str = "released",
        previous: str | None = None,
        next: str | None = None,
        priority: tuple[Any, ...] | None = None,
        who_has: set[str] | None = None,
        coming_from: str | None = None,
        resource_restrictions: dict[str, float] | None = None,
        exception: Any = None,
        traceback: Any = None,
        exception_text: str = "",
        traceback_text: str = "",
        type: _Class | None = None,
        suspicious_count: int = 0,
        startstops: list[dict[str, Any]] | None = None,
        start_time: float | None = None,
        stop_time: float | None = None,
        metadata: dict[str, Any] | None = None,
        nbytes: int | None = None,
        annotations: dict[str, Any] | None = None,
        span_id: str | None = None,
        done: bool = False,
    ) -> None: ...
    @property
    def serial(self) -> int: ...
    @property
    def prefix(self) -> str: ...
    def get_nbytes(self) -> int: ...
    def _to_dict_no_nest(self, *, exclude: Container[str] = ()) -> dict[str, Any]: ...
