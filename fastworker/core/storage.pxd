"""The seam between the core and whatever holds results in memory."""

from libc.stdint cimport int64_t

cdef object MISSING  # answers "not here", as None is a result like any other


cdef class Storage:
    # What a subclass holds is touched under the core's lock; it says itself what else may touch it.
    # None of the methods may run user code: keys are plain, and a value that leaves is handed out,
    # so that the caller can let it go when it holds no lock.
    cdef bint put(self, object key, object value, int64_t nbytes) except -1
    cdef object look(self, object key)
    cdef object take(self, object key)
    cdef bint holds(self, object key) except -1

cdef int64_t MOST_NBYTES

cdef int64_t whole_bytes(object nbytes) except -1
