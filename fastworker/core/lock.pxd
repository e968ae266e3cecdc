"""The one lock of the core."""

cdef extern from "pythread.h":
    ctypedef void* PyThread_type_lock


cdef class Lock:
    # Written only by the thread that holds `mutex`. Other threads read `owner` under the GIL: it
    # never equals their own ident, which is all they compare it with.
    cdef PyThread_type_lock mutex
    cdef unsigned long owner  # ident of the thread that holds it; 0: none
    cdef int depth  # how many times the owner has taken it
    cdef list trash  # objects whose end may run user code; only the owner touches it

    cdef bint is_held(self) noexcept  # by the calling thread
    cdef int acquire(self) except -1
    cdef int release(self) except -1
    cdef int discard(self, object value) except -1
