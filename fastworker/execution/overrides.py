"""What a user puts in the place of the methods of a worker that plain tasks do without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastworker.execution.engine import NOT_CALLED

if TYPE_CHECKING:
    from fastworker.execution.engine import Engine
    from fastworker.execution.stock import StockEngine


class Overrides:
    """A mixin of ``fastworker.Worker``.

    In a subclass, such a method keeps the worker from having an engine. On a worker, as a plugin
    may put it there, it has the engine leave tasks to the event loop for as long as it is there.
    """

    if TYPE_CHECKING:
        _engine: Engine | StockEngine

    @classmethod
    def _overrides(cls, ours: type) -> bool:
        """Whether this class has such a method that is not the one of the class ``ours``."""
        return any(getattr(cls, name) is not getattr(ours, name) for name in NOT_CALLED)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in NOT_CALLED and "_engine" in vars(self):  # else it looks when it is made
            self._engine.look_at_methods()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in NOT_CALLED and "_engine" in vars(self):
            self._engine.look_at_methods()
