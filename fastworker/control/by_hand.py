"""Everything that can be asked of one worker by hand, as the one mixin of ``fastworker.Worker``.

Each call goes through the state machine: as an event where there is one for the purpose, as a
recommendation to transition otherwise; the worker then carries out the instructions that come back.
Each call checks its arguments first: a bad call raises and changes nothing. Calls that change
something must be made in the thread of the worker's event loop, while the worker runs.
"""

from __future__ import annotations

from fastworker.control.data import DataVerbs
from fastworker.control.moves import Moves
from fastworker.control.tasks import TaskVerbs
from fastworker.control.views import StateViews


class Control(TaskVerbs, DataVerbs, Moves, StateViews):
    """Verbs on tasks, on data, moves between states, and views of the state.

    The names are those of the description of a worker, so they have to be the worker's own.
    """
