"""The transitions between task states, and their table.

A transition changes one task. It adds to `recs` the next states of other tasks, and to `records`
what the worker should do. `args` came with the recommendation, or is None.
"""

from fastworker.core.state cimport State
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState

ctypedef int (*transition_t)(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1

cdef transition_t find_transition(int start, int finish) noexcept  # NULL: there is none
