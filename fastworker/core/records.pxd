"""Records: what the core puts out. The frequent instructions are native, the rest distributed's."""

from libc.stdint cimport int64_t

from fastworker.core.task cimport TaskState


cdef class Run:
    """Run this task: becomes an `Execute`."""
    cdef readonly TaskState task
    cdef readonly object stimulus_id
    cdef readonly double when  # it became executable, in seconds since the epoch


cdef class Finished:
    """Tell the scheduler that this task is in memory: becomes a `TaskFinishedMsg`."""
    cdef readonly object key
    cdef readonly object run_id
    cdef readonly int64_t nbytes
    cdef readonly object type
    cdef readonly object metadata  # None: empty
    cdef readonly object thread
    cdef readonly object startstops  # None: just the compute times below, if there are any
    cdef readonly double compute_start, compute_stop  # seconds since the epoch; NaN: none
    cdef readonly object stimulus_id


cdef class Held:
    """Tell the scheduler that this key is here too: becomes an `AddKeysMsg`."""
    cdef readonly object key
    cdef readonly object stimulus_id


cdef class Dropped:
    """Tell the scheduler that this key is not here any more: becomes a `ReleaseWorkerDataMsg`."""
    cdef readonly object key
    cdef readonly object stimulus_id


cdef Run run(TaskState ts, double now, object stimulus_id)
cdef Held held(TaskState ts, object stimulus_id)
cdef Dropped dropped(TaskState ts, object stimulus_id)
cdef Finished finished(TaskState ts, object run_id, object thread, object stimulus_id)
cdef tuple known_description(object cls)
cpdef tuple describe_type(object cls)
cpdef list to_instructions(list records)
