"""The loop that runs the recommended transitions until none is left."""

from fastworker.core.planning cimport Planner
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState


cdef class Machine(Planner):
    cdef bint overridden  # a subclass in Python has a `_transition` of its own
    cdef Recs spare, other_spare  # empty ones that have memory; None while in use

    cdef int run_transitions(self, Recs recs, object stimulus_id, list records) except -1
    cdef int exhaust(self, Recs recs, object stimulus_id, list records) except -1
    cdef int step(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1
    cdef int transition(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1
    cdef int by_way_of_released(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1
    cdef Recs take_recs(self)
    cdef void give_recs(self, Recs recs) noexcept
    cdef object invalid(self, object cls, TaskState ts, int start, int finish)
    cdef int write_transition(
        self, TaskState ts, int start, int finish, Recs recs, object stimulus_id
    ) except -1
    cdef int notify_plugins(self, object key, int start, int finish) except -1
    cdef int begin(self) except -1
    cdef bint find_hooks(self) except -1
    cdef int count_touched(self) except -1
