"""Priorities as plain numbers, so that comparing two of them needs no Python object.

Dask's priorities are tuples of a few numbers compared from left to right. Up to four ints or
floats that a double holds exactly are kept in a `Priority`; any other tuple is "inexact", stays a
Python tuple and is compared as one.
"""

from libc.stdint cimport uint8_t

cdef enum:
    WIDTH = 4
    INEXACT = 255

cdef struct Priority:
    double v[WIDTH]  # missing components are -inf: a prefix sorts before what it is a prefix of
    uint8_t n  # components; 0: no priority; INEXACT: see above
    uint8_t floats  # bit i is set where component i was a float

cdef void no_priority(Priority* out) noexcept
cdef int encode(object priority, Priority* out) except -1
cdef object decode(const Priority* p)


cdef inline int compare(const double* a, const double* b) noexcept nogil:
    """-1, 0 or 1 as a sorts before, with or after b."""
    cdef int i
    for i in range(WIDTH):
        if a[i] != b[i]:
            return -1 if a[i] < b[i] else 1
    return 0
