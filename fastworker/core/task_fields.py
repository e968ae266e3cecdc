"""The fields of a TaskState, as ``dataclasses.fields`` describes them."""

from __future__ import annotations

import dataclasses

#: {name: type} of the arguments of TaskState that may be left out.
OPTIONAL = {
    "run_id": "int",
    "run_spec": "Any",
    "dependencies": "set[TaskState]",
    "dependents": "set[TaskState]",
    "waiting_for_data": "set[TaskState]",
    "waiters": "set[TaskState]",
    "state": "str",
    "previous": "str | None",
    "next": "str | None",
    "priority": "tuple[int, ...] | None",
    "who_has": "set[str]",
    "coming_from": "str | None",
    "resource_restrictions": "dict[str, float]",
    "exception": "Any",
    "traceback": "Any",
    "exception_text": "str",
    "traceback_text": "str",
    "type": "type | None",
    "suspicious_count": "int",
    "startstops": "list[dict[str, Any]]",
    "start_time": "float | None",
    "stop_time": "float | None",
    "metadata": "dict[str, Any]",
    "nbytes": "int | None",
    "annotations": "dict[str, Any] | None",
    "span_id": "str | None",
    "done": "bool",
}

described = dataclasses.make_dataclass(
    "TaskState",
    [
        ("key", "Key", dataclasses.field()),
        ("prefix", "str", dataclasses.field(init=False)),
        *[(name, kind, dataclasses.field(default=None)) for name, kind in OPTIONAL.items()],
    ],
)

#: So that ``dataclasses.fields(TaskState)`` is what it is for distributed's.
FIELDS = {field.name: field for field in dataclasses.fields(described)}
