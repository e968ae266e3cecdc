from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Literal

Outcome = Literal["success", "failed", "cancelled"]

class Row:
    def __init__(self, span_id: str | None, prefix: str) -> None: ...
    @property
    def span_id(self) -> str | None: ...
    @property
    def prefix(self) -> str: ...

class ExecuteMetrics:
    wake: Callable[[], object] | None
    def __init__(self, durations: bool = False) -> None: ...
    def record(
        self,
        span_id: str | None,
        prefix: str,
        *,
        outcome: Outcome = "success",
        thread_cpu: float = 0.0,
        thread_noncpu: float = 0.0,
        executor: float = 0.0,
        other: float = 0.0,
        elapsed: float = 0.0,
        duration: float = -1.0,
        read_count: int = 0,
        read_bytes: int = 0,
        read_largest: int = 0,
    ) -> None: ...
    def report(
        self,
        span_id: str | None,
        prefix: str,
        label: Hashable,
        value: float,
        unit: str,
        *,
        outcome: Outcome = "success",
    ) -> None: ...
    @property
    def empty(self) -> bool: ...
    @property
    def tasks_total(self) -> dict[Outcome, int]: ...
    @property
    def dropped(self) -> int: ...
    def drain(
        self,
        total: MutableMapping[Any, float],
        since_heartbeat: MutableMapping[Any, float],
        largest: MutableMapping[Any, float],
        digests: MutableMapping[Any, Any] | None,
    ) -> None: ...
