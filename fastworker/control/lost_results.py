"""Results whose spill file is gone or cannot be read: the scheduler has them computed again.

distributed's worker does not recover: a client that gathers such a result, or a peer that needs it,
asks for it forever; a task that needs it fails; releasing it closes the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.worker_state_machine import FreeKeysEvent, ReleaseWorkerDataMsg

from fastworker.config.logs import get_logger
from fastworker.control.steering import Steering, locked, new_stimulus_id, users
from fastworker.data.disk import SpillFileLost

if TYPE_CHECKING:
    from dask.typing import Key
    from tornado.ioloop import IOLoop

logger = get_logger("data")


class LostResults(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        loop: IOLoop

    def _result_lost(self, error: SpillFileLost) -> None:
        """Note that a result is lost. Any thread may call it."""
        self.loop.add_callback(self._drop_lost, error.key, str(error))

    def _drop_lost(self, key: Key, reason: str) -> None:
        """Tell the scheduler that this result is not here, and hand back the tasks that need it.

        If another worker has a copy, the scheduler does not take those tasks back itself.
        """
        dependents = self._needing(key)
        if dependents is None:
            return
        logger.error("A result is lost: %s. The scheduler has it computed again.", reason)
        stimulus_id = new_stimulus_id("lost-result")
        # The lock is not held: this may call plugins
        self.handle_stimulus(FreeKeysEvent(keys=[key, *dependents], stimulus_id=stimulus_id))
        self._follow([ReleaseWorkerDataMsg(key=key, stimulus_id=stimulus_id)])
        self._reschedule(dependents, stimulus_id)

    @locked
    def _needing(self, key: Key) -> list[Key] | None:
        """Keys of tasks here that need a result, without those added by hand, which fail.

        None if the result is not in memory here.
        """
        ts = self.state.tasks.get(key)
        if ts is None or ts.state != "memory":
            return None
        return [each.key for each in users(ts) if each.key not in self.by_hand]
