"""What each stimulus does to the state: events of distributed's, and messages."""

from fastworker.core.state cimport State

cdef int process(State state, object stimulus, list records) except -1
cdef int process_success(
    State state, object key, object run_id, object value, double start, double stop, object nbytes,
    object type, object stimulus_id, list records,
) except -1
