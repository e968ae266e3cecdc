"""The two clocks that the core reads, without a Python float in between."""

from libc.time cimport time_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    ctypedef int clockid_t
    const clockid_t CLOCK_REALTIME
    const clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* out)

cdef inline double read_clock(clockid_t clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <double>t.tv_sec + 1e-9 * <double>t.tv_nsec

cdef inline double wall_clock() noexcept nogil:
    """Seconds since the epoch."""
    return read_clock(CLOCK_REALTIME)

cdef inline double monotonic() noexcept nogil:
    """Seconds since some moment that does not change while the process runs."""
    return read_clock(CLOCK_MONOTONIC)
