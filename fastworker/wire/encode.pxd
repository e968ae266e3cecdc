"""Plain values as msgpack, byte for byte what distributed's worker sends.

Everything that ``put_...`` writes goes to the end of a `Bytes`. No function here runs user code or
releases the GIL: what would need either is reported as not plain and left to
`fastworker.wire.encode_objects`.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strlen


cdef struct Bytes:  # a growing piece of memory
    unsigned char* data
    size_t size
    size_t capacity
    bint lent  # the caller owns the memory: never freed here, replaced when full


cdef enum:
    MAX_DEPTH = 64  # deeper values are not plain; msgpack itself goes to 511


# ------------------------------------------------------------------------------- plain memory

cdef void lend(Bytes* out, unsigned char* memory, size_t capacity) noexcept nogil
cdef void give_back(Bytes* out) noexcept nogil
cdef bint grow(Bytes* out, size_t more) noexcept nogil  # False: out of memory, out unchanged
cdef bint append(Bytes* out, const unsigned char* data, size_t size) noexcept nogil  # the same

cdef inline int need(Bytes* out, size_t more) except -1:
    if out.size + more > out.capacity and not grow(out, more):
        raise MemoryError(f"no memory for {more} bytes of a message to the scheduler")
    return 0

# ------------------------------------------------------------------------------------ msgpack

cdef size_t array_header(unsigned char* out, uint64_t n) noexcept nogil  # at most 5 bytes
cdef int map_header(Bytes* out, Py_ssize_t n) except -1  # n below 2 ** 32

# 1: written; 0: not plain, and nothing is written. Raise MemoryError.
cdef int put_value(Bytes* out, object value) except -1
cdef int put_nested(Bytes* out, object value, int depth) except -1  # what it wrote may stay

cdef int put_int(Bytes* out, int64_t value) except -1

cdef inline void big_endian(unsigned char* out, uint64_t value, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        out[i] = <unsigned char>(value >> (8 * (n - 1 - i)))

cdef inline int put_literal(Bytes* out, const char* text) except -1:
    """Bytes that are msgpack already, up to the first zero."""
    cdef size_t size = strlen(text)
    need(out, size)
    memcpy(out.data + out.size, text, size)
    out.size += size
    return 0

cdef inline void write_double(Bytes* out, double value) noexcept nogil:
    """A double without its kind; there must be room."""
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    big_endian(out.data + out.size, bits, 8)
    out.size += 8
