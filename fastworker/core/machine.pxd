"""The loop that runs the recommended transitions until none is left."""

from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State
from fastworker.core.task cimport TaskState

# An event: begin, recommend something, run_transitions
cdef bint begin(State state) except -1
cdef Recs take_recs(State state)
cdef int run_transitions(State state, Recs recs, object stimulus_id, list records) except -1
cdef void give_recs(State state, Recs recs) noexcept

cdef int transition(
    State state, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
) except -1
