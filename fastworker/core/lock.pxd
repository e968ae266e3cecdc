"""The one lock of the core."""

cdef extern from "pythread.h":
    ctypedef void* PyThread_type_lock


cdef class Lock:
    # Written only by the thread that holds `mutex`; read by others under the GIL, to whom it is
    # enough that the owner can never look like themselves.
    cdef PyThread_type_lock mutex
    cdef unsigned long owner  # ident of the thread that holds it; 0: nobody
    cdef int depth  # how many times it does
    cdef list trash  # what may run user code when it is let go; of no concern to any other thread

    cdef int acquire(self) except -1
    cdef int release(self) except -1
    cdef int discard(self, object value) except -1
