"""What each stimulus does to the state, before any recommendation is followed."""

from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State

cdef int handle(State state, object event, Recs recs, list records) except -1

# The frequent stimuli, field by field: for events and for the native entries alike
cdef int on_compute_task(
    State state, object key, object run_id, object who_has, object nbytes, object priority,
    object run_spec, object resource_restrictions, bint actor, object annotations,
    object span_id, object stimulus_id, Recs recs, list records,
) except -1
cdef int on_success(
    State state, object key, object run_id, object value, double start, double stop, object nbytes,
    object type, Recs recs,
) except -1
cdef int on_free_keys(State state, object keys, object stimulus_id, Recs recs) except -1
