"""Results whose spill file is gone or cannot be read: the scheduler has them computed again.

distributed's worker does not recover: a client that gathers such a result, or a peer that needs it,
asks for it forever; a task that needs it fails; releasing it closes the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastworker.config.logs import get_logger
from fastworker.control.steering import (
    NOT_BEGUN,
    Steering,
    is_by_hand,
    lock_of,
    new_stimulus_id,
    report_of,
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
    """Let go of this result, of which the scheduler is told, and of the tasks that need it.

    They are handed back: if another worker has a copy, the scheduler does not take them back
    itself. Those added by hand, which it may not know, fail: at once if they have not begun, or
    else when they read the result. Only the thread of the event loop may call it.
    """
    stimulus_id = new_stimulus_id("lost-result")
    report = report_of(RuntimeError(reason))
    try:
        with lock_of(worker.state):
            ts = worker.state.tasks.get(key)
            if ts is None or ts.state != "memory":
                return
            needing = users(ts)
            by_hand = [each for each in needing if is_by_hand(each)]
            for each in by_hand:
                if each.state in NOT_BEGUN:
                    worker._recommend(each, ("error", *report, each.run_id), stimulus_id)
            dependents = [each.key for each in needing if each not in by_hand]
            worker._free([key, *dependents], dependents, stimulus_id)
    finally:
        worker._follow()
    logger.error("A result is lost: %s. The scheduler has it computed again.", reason)
