"""Priorities packed into two words, so that comparing them takes no Python object and no branch.

Dask's priorities are tuples of a few numbers compared from left to right: the user's priority, the
computation's number, the task's place in its graph, and the generation that the worker adds. Up to
four ints of the widths below are packed, the first one into the highest bits; missing components
are 0, so that a tuple sorts before those it is the beginning of. Any other tuple stays a Python
tuple and is compared as one: UNPACKED.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    MOST = 4
    UNPACKED = 255

cdef struct Priority:
    uint64_t hi  # 16 bits of component 0, 32 of component 1, the higher 16 of component 2
    uint64_t lo  # the lower 24 bits of component 2, 40 of component 3
    uint8_t n  # components; 0: no priority; UNPACKED: see above

cdef int pack(object priority, Priority* out) except -1
cdef bint append(Priority* p, int64_t component) noexcept
cdef object unpack(const Priority* p)
