"""The native entries for frequent events, which take the fields instead of an event object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed.worker_state_machine as wsm

Entry = tuple[Callable[..., Any], tuple[Any, ...]]


def entry_of(state: Any, event: wsm.StateMachineEvent) -> Entry | None:
    """The method of a native ``state`` for that event, and its arguments; None if it has none."""
    if type(event) is wsm.ComputeTaskEvent:
        return state.compute_task, (
            event.key,
            event.run_id,
            event.priority,
            event.run_spec,
            event.who_has or None,
            event.nbytes or None,
            event.resource_restrictions,
            event.actor,
            event.annotations,
            event.span_id,
            event.stimulus_id,
        )
    if type(event) is wsm.ExecuteSuccessEvent:
        return state.task_done, (
            event.key,
            event.run_id,
            event.value,
            event.start,
            event.stop,
            event.nbytes,
            event.type,
            event.stimulus_id,
        )
    if type(event) is wsm.FreeKeysEvent:
        return state.free_keys, (event.keys, event.stimulus_id)
    return None
