"""The interface through which the core reaches results in memory."""

from libc.stdint cimport int64_t

cdef object MISSING  # answers "not here", as None is a result like any other


cdef class Storage:
    # Guarded by the core's lock; a subclass says which other lock guards what it holds. No method
    # may run user code: keys are plain, and a value that is removed is returned, so that the caller
    # can drop it when it holds no lock.
    cdef bint put(self, object key, object value, int64_t nbytes) except -1
    cdef object look(self, object key)
    cdef object take(self, object key)
    cdef bint holds(self, object key) except -1

cdef int64_t MOST_NBYTES

cdef int64_t whole_bytes(object nbytes) except -1
