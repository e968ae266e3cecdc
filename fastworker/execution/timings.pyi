from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Literal

from typing_extensions import Self

_Outcome = Literal["success", "failed", "cancelled"]

class Row:
    def __new__(cls, span_id: str | None, prefix: str) -> Self: ...
    @property
    def span_id(self) -> str | None: ...
    @property
    def prefix(self) -> str: ...

class ExecuteMetrics:
    wake: Callable[[], object] | None
    def __new__(cls, durations: bool = False) -> Self: ...
    def record(
        self,
        span_id: str | None,
        prefix: str,
        *,
        outcome: _Outcome = "success",
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
        outcome: _Outcome = "success",
    ) -> None: ...
    @property
    def empty(self) -> bool: ...
    @property
    def tasks_total(self) -> dict[_Outcome, int]: ...
    @property
    def dropped(self) -> int: ...
    def drain(
        self,
        total: MutableMapping[Any, float],
        since_heartbeat: MutableMapping[Any, float],
        largest: MutableMapping[Any, float],
        digests: MutableMapping[Any, Any] | None,
    ) -> None: ...
