"""Results whose spill file is gone or cannot be read: the scheduler has them computed again.

distributed's worker does not recover: a client that gathers such a result, or a peer that needs it,
asks for it forever; a task that needs it fails; releasing it closes the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastworker.config.logs import get_logger
from fastworker.control.steering import (
    Steering,
    is_by_hand,
    lock_of,
    new_stimulus_id,
    users,
)
from fastworker.data.disk import SpillFileLost

if TYPE_CHECKING:
    from dask.typing import Key

logger = get_logger("data")


def result_lost(worker: Steering, error: SpillFileLost) -> None:
    """Note that a result is lost. Any thread may call it."""
    worker.loop.add_callback(drop_lost, worker, error.key, str(error))


def drop_lost(worker: Steering, key: Key, reason: str) -> None:
    """Let go of this result, of which the scheduler is told, and hand back the tasks that need it.

    If another worker has a copy, the scheduler does not take those tasks back itself. Only the
    thread of the event loop may call it.
    """
    dependents = _needing(worker, key)
    if dependents is None:
        return
    logger.error("A result is lost: %s. The scheduler has it computed again.", reason)
    stimulus_id = new_stimulus_id("lost-result")
    # The lock is not held: this may call plugins
    worker._free([key, *dependents], dependents, stimulus_id)


def _needing(worker: Steering, key: Key) -> list[Key] | None:
    """Keys of tasks here that need a result, without those added by hand, which fail.

    None if the result is not in memory here.
    """
    with lock_of(worker.state):
        ts = worker.state.tasks.get(key)
        if ts is None or ts.state != "memory":
            return None
        return [each.key for each in users(ts) if not is_by_hand(each)]
