"""The contexts that plain tasks run in."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

import dask
from distributed.metrics import context_meter

#: How many spans a thread remembers the context of.
MAX_SPANS = 64


class Contexts:
    """Copies of a context for one task each, so that what a task sets does not reach the next.

    In them ``context_meter`` reports to ``extras``, as (label, value, unit), and tasks that a task
    spawns belong to its span. To enter both takes longer than most of the tasks that this is for;
    so it is done once for each span, and what tasks get is a copy.

    Belongs to one thread. `base` is to be copied and not to be run in.
    """

    def __init__(self, base: Context, extras: list[tuple[Any, float, str]]) -> None:
        def collect(label: Any, value: float, unit: str) -> None:
            extras.append((label, value, unit))

        self.base = base.copy()
        self._metering = context_meter.add_callback(collect)
        self.base.run(self._metering.__enter__)
        self._spans: dict[Any, tuple[Context, Any]] = {}

    def get(self, span: Any) -> Context:
        """A context for one task of this span: the value of its annotation ``span``, or None."""
        if span is None:
            return self.base.copy()
        try:
            ids = span["ids"]
            known = self._spans.get(ids)
        except (KeyError, TypeError):  # not what distributed writes there
            ids = repr(span)
            known = self._spans.get(ids)
        if known is None:
            if len(self._spans) >= MAX_SPANS:
                self._leave(*self._spans.pop(next(iter(self._spans))))
            context = self.base.copy()
            annotation = dask.annotate(span=span)
            context.run(annotation.__enter__)
            known = self._spans[ids] = (context, annotation)
        return known[0].copy()

    def run(self, what: Callable[[], Any]) -> Any:
        """Call something that is not a task, and may report too."""
        return self.base.copy().run(what)

    @staticmethod
    def _leave(context: Context, annotation: Any) -> None:
        context.run(annotation.__exit__, None, None, None)

    def close(self) -> None:
        """Undo what was entered."""
        while self._spans:
            self._leave(*self._spans.popitem()[1])
        self.base.run(self._metering.__exit__, None, None, None)
