"""The event for a transfer that brought results which cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

from dask.typing import Key
from distributed.core import ErrorMessage
from distributed.worker_state_machine import GatherDepSuccessEvent, StateMachineEvent


@dataclass
class GatherDepPartialEvent(GatherDepSuccessEvent):
    """A `GatherDep` instruction has ended; some of what came cannot be read.

    The tasks that wait for an unreadable result err with its error, and the worker lets go of the
    key. For fastworker's state machine only.
    """

    __slots__ = ("unreadable",)

    unreadable: dict[Key, ErrorMessage]  # as of ``distributed.core.error_message``

    def to_loggable(self, *, handled: float) -> StateMachineEvent:
        out = super().to_loggable(handled=handled)
        out._after_from_dict()
        return out

    def _after_from_dict(self) -> None:
        super()._after_from_dict()
        self.unreadable = dict.fromkeys(self.unreadable)
