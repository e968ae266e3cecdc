"""Task states as small integers inside, Dask's strings outside."""

cdef enum:
    NONE = 0  # no state: `previous` and `next` when they do not apply
    CANCELLED
    CONSTRAINED
    ERROR
    EXECUTING
    FETCH
    FLIGHT
    FORGOTTEN
    LONG_RUNNING
    MEMORY
    MISSING
    READY
    RELEASED
    RESCHEDULED
    RESUMED
    WAITING
    N_STATES

cdef object state_name(int state)
cdef int state_code(object name) except -1
cdef int real_state_code(object name) except -1
