"""The event that ends a run which returned no result."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from dask.typing import Key
from distributed.core import error_message
from distributed.exceptions import Reschedule
from distributed.metrics import time
from distributed.worker_state_machine import (
    ExecuteFailureEvent,
    RescheduleEvent,
    StateMachineEvent,
)

from fastworker.config.logs import get_logger
from fastworker.data.disk import SpillFileLost

if TYPE_CHECKING:
    from fastworker.core import TaskState

logger = logging.getLogger("distributed.worker")
own_logger = get_logger("execution")  # for what distributed has no line for

#: How much of a task to write to the log, in characters.
MAX_TASK_CHARS = 1000


def raised(
    error: BaseException, ts: TaskState, run_id: int, run_spec: Any, start: float, stop: float
) -> StateMachineEvent:
    """The event for a task that raised; ``error`` is being handled.

    ``start`` and ``stop`` are in seconds since the epoch, by the scheduler's clock.
    """
    key = ts.key
    if issubclass(type(error), Reschedule):
        return RescheduleEvent(key=key, stimulus_id=f"reschedule-{time()}")
    message = error_message(error)
    if ts.state in ("executing", "long-running", "resumed"):
        logger.error(
            "Compute Failed\n"
            "Key:       %s\n"
            "State:     %s\n"
            "Task:  %s\n"
            "Exception: %r\n"
            "Traceback: %r\n",
            key,
            ts.state,
            repr(run_spec)[:MAX_TASK_CHARS],
            message["exception_text"],
            message["traceback_text"],
        )
    return ExecuteFailureEvent.from_exception(
        message,
        key=key,
        run_id=run_id,
        start=start,
        stop=stop,
        stimulus_id=f"task-erred-{time()}",
    )


def could_not_start(error: BaseException, ts: TaskState, run_id: int) -> StateMachineEvent:
    """The event for a task whose inputs could not be read; ``error`` is being handled.

    They were released before the task began, for example, or cannot be unpickled. If the spill file
    of one is lost, a task of the scheduler's is rescheduled, so that the input is computed again
    first.
    """
    key: Key = ts.key
    if isinstance(error, SpillFileLost) and not ts.by_hand:
        return RescheduleEvent(key=key, stimulus_id=f"lost-input-{time()}")
    if ts.state in ("executing", "long-running"):
        logger.error("Exception during execution of task %r", key, exc_info=True)
    stimulus_id = f"execute-unknown-error-{time()}"
    try:
        return ExecuteFailureEvent.from_exception(
            error, key=key, run_id=run_id, stimulus_id=stimulus_id
        )
    except Exception:  # raised by the error's own __str__ or __reduce__, for example
        own_logger.error("The error of task %r cannot be told", key, exc_info=True)
        return ExecuteFailureEvent.from_exception(
            RuntimeError(f"{key!r} failed with an error that cannot be told"),
            key=key,
            run_id=run_id,
            stimulus_id=stimulus_id,
        )


async def throw(error: BaseException) -> NoReturn:
    """Raise ``error`` in the event loop, for the thread in which a task has raised it."""
    raise error
