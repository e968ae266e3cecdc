"""What a worker knows of one task, and which queues the task stands in."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from fastworker.core.counters cimport PrefixCounts
from fastworker.core.priority cimport Priority

cdef struct QueueSlot:
    uint64_t queue  # id of the queue; 0: the slot is free
    int32_t handle  # what that queue knows the task by

cdef enum:
    NO_NBYTES = -1

cdef object NO_RUN_ID  # of a task that the scheduler has not sent to be run


cdef class TaskExtras:
    """The fields that few tasks have, kept apart so that other tasks take no memory for them."""
    cdef object exception
    cdef object traceback
    cdef object exception_text
    cdef object traceback_text
    cdef object metadata
    cdef object suspicious_count


cdef class TaskState:
    cdef object __weakref__
    # Guarded by the GIL: the list that TaskState._instances walks
    cdef void* newer
    cdef void* older
    cdef bint listed

    cdef readonly Py_ssize_t serial  # order of creation in this process; also the hash
    cdef readonly object key
    cdef public object run_id
    cdef public object run_spec
    cdef uint8_t state_
    cdef uint8_t previous_
    cdef uint8_t next_
    cdef uint8_t counted  # the state under which `counts` has this task; NONE: not counted
    cdef public bint done
    cdef bint touched  # already in State.touched
    cdef public bint by_hand  # added or made to wait by hand: the scheduler may not know it
    cdef int64_t nbytes_
    cdef PrefixCounts counts

    # Sets of TaskState, made when first needed
    cdef set dependencies_
    cdef set dependents_
    cdef set waiting_for_data_
    cdef set waiters_
    cdef set who_has_  # of addresses

    cdef Priority prio
    cdef object unpacked_priority  # the tuple where prio.n is UNPACKED

    cdef public object coming_from
    cdef object resource_restrictions_
    cdef public object type
    cdef list startstops_
    cdef double compute_start, compute_stop  # a startstop not yet written out; NaN: none
    cdef double start_time_, stop_time_  # NaN: None
    cdef public object annotations
    cdef public object span_id
    cdef TaskExtras extras

    # The queues this task stands in: one slot in place, more on the heap
    cdef QueueSlot slot0
    cdef QueueSlot* more_slots
    cdef int32_t n_slots  # in use, or free before one in use
    cdef int32_t more_capacity


cdef TaskState new_task(object key)
cdef int set_priority(TaskState ts, object priority) except -1
cdef object get_priority(TaskState ts)
cdef int add_compute_times(TaskState ts, double start, double stop) except -1
cdef object startstops_snapshot(TaskState ts)
cdef int clear_error(TaskState ts, bint texts) except -1

cdef inline set need(set s):
    """A set that may not have been made yet, for reading."""
    return s if s is not None else EMPTY

cdef set EMPTY
cdef int set_nbytes(TaskState ts, object nbytes) except -1
cdef int64_t nbytes_or_default(TaskState ts) except -1
cdef TaskExtras extras_of(TaskState ts)
