"""Everything that can be asked of one worker by hand, as one mixin.

All of it goes through the state machine: an event where there is one for the purpose, a
recommendation to transition otherwise; the worker then carries out the instructions that come
back. What a call asks for is checked first, so that a bad call raises and changes nothing. Calls
that change something belong to the thread of the worker's event loop, and to a running worker.
"""

from __future__ import annotations

from fastworker.control.data import DataVerbs
from fastworker.control.moves import Moves
from fastworker.control.tasks import TaskVerbs


class Verbs(TaskVerbs, DataVerbs, Moves):
    """A mixin of ``fastworker.Worker``: verbs on tasks, on data, and moves between states."""
