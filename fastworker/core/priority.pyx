"""Priorities packed into two words, so that comparing them takes no Python object and no branch."""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int64_t, uint64_t

cdef int[MOST] WIDTHS = [16, 32, 40, 40]  # bits


cdef inline int64_t bias(int i) noexcept nogil:
    return <int64_t>1 << (WIDTHS[i] - 1)


cdef bint append(Priority* p, int64_t component) noexcept:
    """Add a component behind those there are; False, and nothing done, if it does not fit."""
    cdef uint64_t bits
    if p.n >= MOST:
        return False
    # Nothing that is present is packed as 0: that is what is missing
    if component <= -bias(p.n) or component >= bias(p.n):
        return False
    bits = <uint64_t>(component + bias(p.n))
    if p.n == 0:
        p.hi = bits << 48
        p.lo = 0
    elif p.n == 1:
        p.hi |= bits << 16
    elif p.n == 2:
        p.hi |= bits >> 24
        p.lo = bits << 40
    else:
        p.lo |= bits
    p.n += 1
    return True


cdef int pack(object priority, Priority* out) except -1:
    """Write a priority tuple into `out`; out.n is UNPACKED where it does not fit."""
    cdef int overflow = 0
    cdef long long component
    out.hi = out.lo = 0
    out.n = 0
    for part in <tuple?>priority:
        if type(part) is not int:
            break
        component = PyLong_AsLongLongAndOverflow(part, &overflow)
        if overflow or not append(out, component):
            break
    else:
        return 0
    out.hi = out.lo = 0
    out.n = UNPACKED
    return 0


cdef object unpack(const Priority* p):
    """The tuple that `p` was made from. Not for an UNPACKED one."""
    cdef uint64_t[MOST] bits
    cdef int i
    bits[0] = p.hi >> 48
    bits[1] = (p.hi >> 16) & 0xFFFFFFFF
    bits[2] = (p.hi & 0xFFFF) << 24 | p.lo >> 40
    bits[3] = p.lo & 0xFFFFFFFFFF
    return tuple([<int64_t>bits[i] - bias(i) for i in range(p.n)])
