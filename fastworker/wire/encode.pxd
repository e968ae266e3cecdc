"""Messages to the scheduler as msgpack, byte for byte what a stock worker sends.

Everything that ``put_...`` writes goes to the end of a `Bytes`. No function here runs user code or
lets go of the GIL: what would need either is reported as not plain and left to
`fastworker.wire.encode_objects`.
"""

from libc.stdint cimport uint64_t


cdef struct Bytes:  # a growing piece of memory
    unsigned char* data
    size_t size
    size_t capacity
    bint lent  # data belongs to somebody else: not to be freed, and left for our own when full


cdef enum:
    MAX_DEPTH = 64  # deeper values are not plain; msgpack itself goes to 511


# ------------------------------------------------------------------------------- plain memory

cdef void lend(Bytes* out, unsigned char* memory, size_t capacity) noexcept nogil
cdef void give_back(Bytes* out) noexcept nogil
cdef bint grow(Bytes* out, size_t more) noexcept nogil  # False: out of memory, out unchanged
cdef bint append(Bytes* out, const unsigned char* data, size_t size) noexcept nogil  # the same

# ------------------------------------------------------------------------------------ msgpack

cdef size_t array_header(unsigned char* out, uint64_t n) noexcept nogil  # at most 5 bytes
cdef int map_header(Bytes* out, Py_ssize_t n) except -1  # n below 2 ** 32

# 1: written; 0: not plain, and nothing is written. Raise MemoryError.
cdef int put_value(Bytes* out, object value) except -1
cdef int put_record(Bytes* out, object record) except -1
