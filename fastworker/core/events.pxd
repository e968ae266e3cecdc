"""What each stimulus does to the state, before any recommendation is followed."""

from fastworker.core.machine cimport Machine
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState


cdef class Events(Machine):
    # The frequent stimuli, field by field: for events and for the native entries alike
    cdef int on_compute_task(
        self, object key, object run_id, object who_has, object nbytes, object priority,
        object run_spec, object resource_restrictions, bint actor, object annotations,
        object span_id, object stimulus_id, Recs recs, list records,
    ) except -1
    cdef int on_success(
        self, object key, object run_id, object value, double start, double stop, object nbytes,
        object type, Recs recs,
    ) except -1
    cdef int on_data(
        self, object worker, object total_nbytes, object data, object stimulus_id, Recs recs
    ) except -1
    cdef int on_free_keys(self, object keys, object stimulus_id, Recs recs) except -1

    cdef list end_transfer(self, object worker, object total_nbytes)
    cdef TaskState end_execution(self, object key, Recs recs)

    cdef int handle(self, object event, Recs recs, list records) except -1
    cdef int handle_update_data(self, object ev, Recs recs) except -1
    cdef int handle_acquire_replicas(self, object ev, Recs recs) except -1
    cdef int handle_remove_replicas(self, object ev, Recs recs) except -1
    cdef int handle_refresh_who_has(self, object ev, Recs recs) except -1
    cdef int handle_busy(self, object ev, Recs recs, list records) except -1
    cdef int handle_network_failure(self, object ev, Recs recs) except -1
    cdef int handle_gather_failure(self, object ev, Recs recs) except -1
    cdef int handle_remove_worker(self, object ev, Recs recs) except -1
    cdef int handle_failure(self, object ev, Recs recs) except -1
    cdef int handle_steal_request(self, object ev, Recs recs, list records) except -1
    cdef int handle_cancel_compute(self, object ev, Recs recs) except -1
    cdef int handle_find_missing(self, object ev, list records) except -1
