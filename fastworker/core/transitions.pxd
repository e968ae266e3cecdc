"""The transitions between task states, and their table.

Recommendations are dicts {TaskState: finish}, where finish is a state, or a tuple of a state and
the transition's further arguments.
"""

from fastworker.core.planning cimport Planner
from fastworker.core.task cimport TaskState

ctypedef int (*transition_t)(
    Planner m, TaskState ts, tuple args, object stimulus_id, dict recs, list records
) except -1

cdef transition_t find_transition(int start, int finish) noexcept  # NULL: there is none
cdef object report_finished(Planner m, TaskState ts, object run_id, object stimulus_id)
