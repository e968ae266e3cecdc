"""The frequent stimuli as the live worker hands them to the core."""

from __future__ import annotations

from typing import Any

import distributed.worker_state_machine as wsm

from fastworker.core.messages import compute_task_of, free_keys_of, success_of


def native(event: wsm.StateMachineEvent) -> Any:
    """The native form of the event, as the decoder or a thread makes it; or the event itself."""
    if type(event) is wsm.ComputeTaskEvent:
        return compute_task_of(event)
    if type(event) is wsm.ExecuteSuccessEvent:
        return success_of(event)
    if type(event) is wsm.FreeKeysEvent:
        return free_keys_of(event)
    return event
