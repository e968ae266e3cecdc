"""The whole state machine, as Python code sees it."""

from fastworker.core.messages cimport ComputeTask
from fastworker.core.state cimport State


cdef class WorkerState(State):
    cpdef list handle_events(self, tuple stims)
    cdef int log_event(self, object event) except -1
    cpdef list compute_task(
        self, object key, object run_id, object priority, object run_spec, object who_has,
        object nbytes, object resource_restrictions, bint actor, object annotations, object span_id,
        object stimulus_id,
    )
    cdef list take_on(self, ComputeTask message)
    cpdef list task_done(
        self, object key, object run_id, object value, double start, double stop, object nbytes,
        object type, object stimulus_id,
    )
    cdef list task_done_locked(
        self, object key, object run_id, object value, double start, double stop, object nbytes,
        object type, object stimulus_id,
    )
    cpdef list free_keys(self, object keys, object stimulus_id)
