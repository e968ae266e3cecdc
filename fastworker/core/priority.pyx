"""Priorities as plain numbers, so that comparing two of them needs no Python object."""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.math cimport INFINITY, isnan

cdef long long EXACT = 1 << 53


cdef void no_priority(Priority* out) noexcept:
    cdef int i
    for i in range(WIDTH):
        out.v[i] = -INFINITY
    out.n = 0
    out.floats = 0


cdef int encode(object priority, Priority* out) except -1:
    """Write a priority tuple into `out`; out.n is INEXACT where plain doubles cannot hold it."""
    cdef int i = 0, overflow = 0
    cdef long long whole
    cdef double x
    no_priority(out)
    if len(priority) > WIDTH:
        out.n = INEXACT
        return 0
    for part in <tuple?>priority:
        if type(part) is int:
            whole = PyLong_AsLongLongAndOverflow(part, &overflow)
            if overflow or whole > EXACT or whole < -EXACT:
                out.n = INEXACT
                return 0
            out.v[i] = <double>whole
        elif type(part) is float:
            x = part
            if isnan(x) or x == -INFINITY:
                out.n = INEXACT
                return 0
            out.v[i] = x
            out.floats |= <uint8_t>(1 << i)
        else:
            out.n = INEXACT
            return 0
        i += 1
    out.n = <uint8_t>i
    return 0


cdef object decode(const Priority* p):
    """The tuple that `p` was made from. Not for an INEXACT one."""
    cdef int i
    return tuple([
        p.v[i] if p.floats & (1 << i) else <long long>p.v[i] for i in range(p.n)
    ])
