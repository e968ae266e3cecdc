"""Short names for events. Every event's stimulus_id is its name, unless one is given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import distributed.worker_state_machine as wsm
from distributed.protocol.serialize import Serialize

#: In place of a task's function and arguments, which the state machine only passes on.
RUN_SPEC = wsm.ComputeTaskEvent.dummy_runspec("run-spec")

HERE = "tcp://10.0.0.1:1000"  # the worker of the story
NEAR = "tcp://10.0.0.1:1001"  # a peer on the same host
FAR = "tcp://10.0.0.2:1002"
FARTHER = "tcp://10.0.0.3:1003"


def compute(
    key: Any,
    who_has: dict[Any, Collection[str]] | None = None,
    *,
    priority: Any = (0,),
    run_id: int = 1,
    nbytes: int | dict[Any, int] = 1,
    **kwargs: Any,
) -> wsm.ComputeTaskEvent:
    """``nbytes`` is the size of each input, or the sizes by key."""
    who_has = who_has or {}
    fields = {
        "run_spec": RUN_SPEC,
        "resource_restrictions": {},
        "actor": False,
        "annotations": {},
        "span_id": None,
        "stimulus_id": "compute",
    }
    return wsm.ComputeTaskEvent(
        key=key,
        run_id=run_id,
        who_has=who_has,
        nbytes=dict.fromkeys(who_has, nbytes) if isinstance(nbytes, int) else nbytes,
        priority=priority,
        **{**fields, **kwargs},
    )


def success(key: Any, value: Any = "value", **kwargs: Any) -> wsm.ExecuteSuccessEvent:
    fields = {
        "run_id": 1,
        "start": 10.0,
        "stop": 11.0,
        "nbytes": 8,
        "type": type(value),
        "stimulus_id": "success",
    }
    return wsm.ExecuteSuccessEvent(key=key, value=value, **{**fields, **kwargs})


def failure(key: Any, *, run_id: int = 1) -> wsm.ExecuteFailureEvent:
    return wsm.ExecuteFailureEvent(
        key=key,
        run_id=run_id,
        start=10.0,
        stop=11.0,
        exception=Serialize("exception"),
        traceback=Serialize("traceback"),
        exception_text="Error()",
        traceback_text="line 1",
        stimulus_id="failure",
    )


def reschedule(key: Any) -> wsm.RescheduleEvent:
    return wsm.RescheduleEvent(key=key, stimulus_id="reschedule")


def secede(key: Any) -> wsm.SecedeEvent:
    return wsm.SecedeEvent(key=key, compute_duration=1.5, stimulus_id="secede")


def free(*keys: Any, stimulus_id: str = "free") -> wsm.FreeKeysEvent:
    return wsm.FreeKeysEvent(keys=list(keys), stimulus_id=stimulus_id)


def cancel_compute(key: Any) -> wsm.CancelComputeEvent:
    return wsm.CancelComputeEvent(key=key, stimulus_id="cancel-compute")


def steal(key: Any) -> wsm.StealRequestEvent:
    return wsm.StealRequestEvent(key=key, stimulus_id="steal")


def scatter(**data: Any) -> wsm.UpdateDataEvent:
    return wsm.UpdateDataEvent(data=data, stimulus_id="scatter")


def acquire(who_has: dict[Any, Collection[str]], nbytes: int = 1) -> wsm.AcquireReplicasEvent:
    return wsm.AcquireReplicasEvent(
        who_has=who_has, nbytes=dict.fromkeys(who_has, nbytes), stimulus_id="acquire"
    )


def remove_replicas(*keys: Any) -> wsm.RemoveReplicasEvent:
    return wsm.RemoveReplicasEvent(keys=list(keys), stimulus_id="remove-replicas")


def refresh(who_has: dict[Any, Collection[str]]) -> wsm.RefreshWhoHasEvent:
    return wsm.RefreshWhoHasEvent(who_has=who_has, stimulus_id="refresh")


def remove_worker(worker: str) -> wsm.RemoveWorkerEvent:
    return wsm.RemoveWorkerEvent(worker=worker, stimulus_id="remove-worker")


def find_missing() -> wsm.FindMissingEvent:
    return wsm.FindMissingEvent(stimulus_id="find-missing")


def pause() -> wsm.PauseEvent:
    return wsm.PauseEvent(stimulus_id="pause")


def unpause() -> wsm.UnpauseEvent:
    return wsm.UnpauseEvent(stimulus_id="unpause")


def retry_busy(worker: str) -> wsm.RetryBusyWorkerEvent:
    return wsm.RetryBusyWorkerEvent(worker=worker, stimulus_id="retry-busy")


def gathered(
    worker: str, total_nbytes: int = 1, *, stimulus_id: str = "gathered", **data: Any
) -> wsm.GatherDepSuccessEvent:
    return wsm.GatherDepSuccessEvent(
        worker=worker, total_nbytes=total_nbytes, data=data, stimulus_id=stimulus_id
    )


def busy(worker: str, total_nbytes: int = 1) -> wsm.GatherDepBusyEvent:
    return wsm.GatherDepBusyEvent(worker=worker, total_nbytes=total_nbytes, stimulus_id="busy")


def lost(worker: str, total_nbytes: int = 1) -> wsm.GatherDepNetworkFailureEvent:
    return wsm.GatherDepNetworkFailureEvent(
        worker=worker, total_nbytes=total_nbytes, stimulus_id="lost"
    )


def garbled(worker: str, total_nbytes: int = 1) -> wsm.GatherDepFailureEvent:
    """The peer's answer could not be read."""
    return wsm.GatherDepFailureEvent(
        worker=worker,
        total_nbytes=total_nbytes,
        exception=Serialize("exception"),
        traceback=None,
        exception_text="Garbled()",
        traceback_text="",
        stimulus_id="garbled",
    )


# What the machine answers, as far as a story wants to say


def execute(key: Any, **kwargs: Any) -> Any:
    return wsm.Execute.match(key=key, **kwargs)


def gather(worker: str, *keys: Any, **kwargs: Any) -> Any:
    return wsm.GatherDep.match(worker=worker, to_gather=set(keys), **kwargs)


def finished(key: Any, **kwargs: Any) -> Any:
    return wsm.TaskFinishedMsg.match(key=key, **kwargs)


def erred(key: Any, **kwargs: Any) -> Any:
    return wsm.TaskErredMsg.match(key=key, **kwargs)


def add_keys(*keys: Any) -> Any:
    return wsm.AddKeysMsg.match(keys=list(keys))


def released(key: Any) -> Any:
    return wsm.ReleaseWorkerDataMsg.match(key=key)


def rescheduled(key: Any) -> Any:
    return wsm.RescheduleMsg.match(key=key)


def seceded(key: Any, **kwargs: Any) -> Any:
    return wsm.LongRunningMsg.match(key=key, **kwargs)


def stolen(key: Any, state: str | None) -> Any:
    return wsm.StealResponseMsg.match(key=key, state=state)


def ask_who_has(*keys: Any) -> Any:
    return wsm.RequestRefreshWhoHasMsg.match(keys=list(keys))


def retry_later(worker: str) -> Any:
    return wsm.RetryBusyWorkerLater.match(worker=worker)
