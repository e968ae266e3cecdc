"""Everything that can be asked of one worker by hand, as one mixin.

Each call goes through the state machine: as an event where there is one for the purpose, as a
recommendation to transition otherwise; the worker then carries out the instructions that come back.
Each call checks its arguments first: a bad call raises and changes nothing. Calls that change
something must be made in the thread of the worker's event loop, while the worker runs.
"""

from __future__ import annotations

from fastworker.control.data import DataVerbs
from fastworker.control.moves import Moves
from fastworker.control.tasks import TaskVerbs


class Verbs(TaskVerbs, DataVerbs, Moves):
    """A mixin of ``fastworker.Worker``: verbs on tasks, on data, and moves between states."""
