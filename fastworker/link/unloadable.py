"""A task that this worker cannot unpickle."""

from __future__ import annotations

from typing import Any

from distributed.core import error_message


class UnloadableTask:
    """Stands in a message for a task that could not be unpickled."""

    __slots__ = ("error", "message")

    def __init__(self, error: Exception) -> None:
        """Call this in the ``except`` block of ``error``, whose traceback it takes."""
        self.error = error
        #: ``exception``, ``traceback``, ``exception_text``, ``traceback_text`` for the scheduler
        self.message: dict[str, Any] = dict(error_message(error))

    def __repr__(self) -> str:
        return f"<UnloadableTask: {self.error!r}>"
