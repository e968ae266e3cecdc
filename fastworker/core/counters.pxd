"""How many tasks are in which state, and for how long tasks have been there, by key prefix."""

from fastworker.core.states cimport N_STATES


cdef class PrefixCounts:
    cdef readonly object prefix
    cdef Py_ssize_t count[N_STATES]
    cdef double elapsed[N_STATES]  # seconds, as of `since`
    cdef double since[N_STATES]  # monotonic seconds

    cdef void move(self, int old, int new, double now) noexcept


cdef class TaskCounter:
    cdef dict by_prefix

    cdef PrefixCounts of_key(self, object key)


cpdef object prefix_of(object key)
