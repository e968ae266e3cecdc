"""What to do next: which tasks to run, and which keys to fetch from which peer."""

from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State

cdef int ensure_computing(State state, Recs recs) except -1
cdef int ensure_communicating(State state, object stimulus_id, Recs recs, list records) except -1
cdef bint throttled(State state) except -1
cdef object select_keys(State state, ReadyQueue available, list to_gather)
