"""The loop that follows recommendations from task to task until none is left."""

from fastworker.core.planning cimport Planner
from fastworker.core.task cimport TaskState


cdef class Machine(Planner):
    cdef int follow(self, dict recs, object stimulus_id, list records) except -1
    cdef int exhaust(self, dict recs, object stimulus_id, list records) except -1
    cdef int transition(
        self, TaskState ts, object finish, object stimulus_id, dict recs, list records
    ) except -1
    cdef int by_way_of_released(
        self, TaskState ts, object finish, object stimulus_id, dict recs, list records
    ) except -1
    cdef int write_transition(
        self, TaskState ts, int start, int finish, dict recs, object stimulus_id
    ) except -1
    cdef int notify_plugins(self, object key, int start, int finish) except -1
    cdef int begin(self) except -1
    cdef int count_touched(self) except -1
    cdef list story_of(self, object key)
