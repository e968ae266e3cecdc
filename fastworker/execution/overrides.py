"""What a user puts in the place of the methods of a worker that plain tasks do without."""

from __future__ import annotations

from typing import Any

from fastworker.execution.engine import NOT_CALLED, Engine


class Overrides:
    """A mixin of ``fastworker.Worker``.

    In a subclass, such a method keeps the worker from having an engine. On a worker, as a plugin
    may put it there, it has the engine leave tasks to the event loop for as long as it is there.
    """

    _engine: Engine | None = None

    @classmethod
    def _overrides(cls, ours: type) -> bool:
        """Whether this class has such a method that is not the one of the class ``ours``."""
        return any(getattr(cls, name) is not getattr(ours, name) for name in NOT_CALLED)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in NOT_CALLED and self._engine is not None:
            self._engine.look_at_methods()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in NOT_CALLED and self._engine is not None:
            self._engine.look_at_methods()
