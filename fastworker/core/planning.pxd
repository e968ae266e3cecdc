"""What to do next: which tasks to run, and which keys to fetch from which peer."""

from fastworker.core.base cimport Base
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState


cdef class Planner(Base):
    cdef int ensure_computing(self, Recs recs) except -1
    cdef TaskState next_ready_task(self)
    cdef int ensure_communicating(self, object stimulus_id, Recs recs, list records) except -1
    cdef bint throttled(self) except -1
    cdef list peers_to_ask(self)
    cdef bint is_remote(self, object worker) except -1
    cdef object select_keys(self, ReadyQueue available, list to_gather)
    cdef bint exceeds_limits(self, TaskState ts, long long message_nbytes) except -1
