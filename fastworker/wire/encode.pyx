"""Messages to the scheduler as msgpack, byte for byte what distributed's worker sends.

Plain values are written natively: None, bool, int of at most 64 bits, float, str, bytes, and lists,
tuples and dicts of those, each of exactly that type. Subclasses, which may override anything, are
left to msgpack, and so is everything that distributed packs by means of hooks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size)  # NULL: error set
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow)
    unsigned long long PyLong_AsUnsignedLongLong(object value)
    int PyErr_ExceptionMatches(object cls)
    PyObject* PyErr_Occurred()
    void PyErr_Clear()


# ------------------------------------------------------------------------------- plain memory

cdef void lend(Bytes* out, unsigned char* memory, size_t capacity) noexcept nogil:
    """Start with memory that the caller keeps, on the stack for example."""
    out.data = memory
    out.size = 0
    out.capacity = capacity
    out.lent = True


cdef void give_back(Bytes* out) noexcept nogil:
    if not out.lent:
        free(out.data)
    out.data = NULL
    out.size = out.capacity = 0


cdef bint grow(Bytes* out, size_t more) noexcept nogil:
    """Make room for more bytes at the end."""
    cdef size_t wanted = out.size + more
    cdef size_t capacity = out.capacity
    cdef unsigned char* data
    if wanted <= capacity:
        return True
    while capacity < wanted:
        capacity = capacity * 2 if capacity else 256
    if out.lent:
        data = <unsigned char*>malloc(capacity)
        if data != NULL:
            memcpy(data, out.data, out.size)
    else:
        data = <unsigned char*>realloc(out.data, capacity)
    if data == NULL:
        return False
    out.data = data
    out.capacity = capacity
    out.lent = False
    return True


cdef bint append(Bytes* out, const unsigned char* data, size_t size) noexcept nogil:
    if not grow(out, size):
        return False
    memcpy(out.data + out.size, data, size)
    out.size += size
    return True


# ------------------------------------------------------------------------------------ msgpack

cdef inline size_t header(
    unsigned char* out, uint64_t n, unsigned char fixed, uint64_t n_fixed,
    unsigned char kind8, unsigned char kind16, unsigned char kind32,
) noexcept nogil:
    """Kind and length of something, in the fewest bytes; ``kind8`` is 0 where there is none."""
    if n < n_fixed:
        out[0] = fixed | <unsigned char>n
        return 1
    if kind8 and n < 0x100:
        out[0] = kind8
        out[1] = <unsigned char>n
        return 2
    if n < 0x10000:
        out[0] = kind16
        big_endian(out + 1, n, 2)
        return 3
    out[0] = kind32
    big_endian(out + 1, n, 4)
    return 5


cdef size_t array_header(unsigned char* out, uint64_t n) noexcept nogil:
    """The start of an array of n items: n must be below 2 ** 32."""
    return header(out, n, 0x90, 16, 0, 0xDC, 0xDD)


cdef int map_header(Bytes* out, Py_ssize_t n) except -1:
    """The start of a map of n pairs."""
    need(out, 5)
    out.size += header(out.data + out.size, <uint64_t>n, 0x80, 16, 0, 0xDE, 0xDF)
    return 0


cdef int put_int(Bytes* out, int64_t value) except -1:
    cdef unsigned char* p
    need(out, 9)
    p = out.data + out.size
    if value >= 0:
        return put_uint(out, <uint64_t>value)
    if value >= -32:
        p[0] = <unsigned char>(<uint8_t>value)
        out.size += 1
    elif value >= -0x80:
        p[0] = 0xD0
        p[1] = <unsigned char>(<uint8_t>value)
        out.size += 2
    elif value >= -0x8000:
        p[0] = 0xD1
        big_endian(p + 1, <uint16_t>value, 2)
        out.size += 3
    elif value >= -<int64_t>0x80000000:
        p[0] = 0xD2
        big_endian(p + 1, <uint32_t>value, 4)
        out.size += 5
    else:
        p[0] = 0xD3
        big_endian(p + 1, <uint64_t>value, 8)
        out.size += 9
    return 0


cdef inline int put_uint(Bytes* out, uint64_t value) except -1:
    cdef unsigned char* p
    need(out, 9)
    p = out.data + out.size
    if value < 0x80:
        p[0] = <unsigned char>value
        out.size += 1
    elif value < 0x100:
        p[0] = 0xCC
        p[1] = <unsigned char>value
        out.size += 2
    elif value < 0x10000:
        p[0] = 0xCD
        big_endian(p + 1, value, 2)
        out.size += 3
    elif value < <uint64_t>0x100000000:
        p[0] = 0xCE
        big_endian(p + 1, value, 4)
        out.size += 5
    else:
        p[0] = 0xCF
        big_endian(p + 1, value, 8)
        out.size += 9
    return 0


cdef inline int put_text(Bytes* out, object text) except -1:
    """A str: 0 if it cannot be UTF-8 or is too long."""
    cdef Py_ssize_t size = 0
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    if utf8 == NULL:
        return not_plain()
    if size >= 0x100000000:
        return 0
    need(out, <size_t>size + 5)
    out.size += header(out.data + out.size, <uint64_t>size, 0xA0, 32, 0xD9, 0xDA, 0xDB)
    memcpy(out.data + out.size, utf8, <size_t>size)
    out.size += <size_t>size
    return 1


cdef inline int put_binary(Bytes* out, object data) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if size >= 0x100000000:
        return 0
    need(out, <size_t>size + 5)
    # No short form: a length below 0 is never true
    out.size += header(out.data + out.size, <uint64_t>size, 0, 0, 0xC4, 0xC5, 0xC6)
    memcpy(out.data + out.size, PyBytes_AS_STRING(data), <size_t>size)
    out.size += <size_t>size
    return 1


cdef int not_plain() except -1:
    """0 for an error that the value causes; a MemoryError is raised again."""
    if PyErr_ExceptionMatches(UnicodeError) or PyErr_ExceptionMatches(OverflowError):
        PyErr_Clear()
        return 0
    return -1


cdef int put_integer(Bytes* out, object value) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef unsigned long long large
    if not overflow:
        put_int(out, number)
        return 1
    if overflow < 0:
        return 0
    large = PyLong_AsUnsignedLongLong(value)
    if large == <unsigned long long>-1 and PyErr_Occurred() != NULL:
        return not_plain()
    put_uint(out, large)
    return 1


cdef int put_items(Bytes* out, object items, int depth) except -1:
    """A list or a tuple."""
    cdef bint is_tuple = type(items) is tuple
    cdef Py_ssize_t i
    cdef Py_ssize_t n = PyTuple_GET_SIZE(items) if is_tuple else PyList_GET_SIZE(items)
    if n >= 0x100000000:
        return 0
    need(out, 5)
    out.size += array_header(out.data + out.size, <uint64_t>n)
    for i in range(n):
        # No other thread runs in between, so the length of a list stays as it is
        if not put_nested(out, (<tuple>items)[i] if is_tuple else (<list>items)[i], depth):
            return 0
    return 1


cdef int put_map(Bytes* out, dict items, int depth) except -1:
    cdef Py_ssize_t position = 0
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t n = len(items)
    if n >= 0x100000000:
        return 0
    map_header(out, n)
    while PyDict_Next(items, &position, &key, &value):
        if not put_nested(out, <object>key, depth) or not put_nested(out, <object>value, depth):
            return 0
    return 1


cdef int put_nested(Bytes* out, object value, int depth) except -1:
    """As `put_value`, but may leave a part when the value is not plain."""
    cdef type kind = type(value)
    if kind is str:
        return put_text(out, value)
    if kind is int:
        return put_integer(out, value)
    if kind is float:
        need(out, 9)
        out.data[out.size] = 0xCB
        out.size += 1
        write_double(out, <double>value)
        return 1
    if value is None or kind is bool:
        need(out, 1)
        out.data[out.size] = 0xC0 if value is None else 0xC3 if value is True else 0xC2
        out.size += 1
        return 1
    if kind is bytes:
        return put_binary(out, value)
    if depth >= MAX_DEPTH:
        return 0
    if kind is tuple or kind is list:
        return put_items(out, value, depth + 1)
    if kind is dict:
        return put_map(out, <dict>value, depth + 1)
    return 0


cdef int put_value(Bytes* out, object value) except -1:
    cdef size_t before = out.size
    cdef int done = put_nested(out, value, 0)
    if not done:
        out.size = before
    return done


# ------------------------------------------------------------------------------- for Python

def pack_plain(value):
    """The bytes of a plain value; None for what is not plain."""
    cdef unsigned char memory[512]
    cdef Bytes out
    cdef int done
    lend(&out, memory, sizeof(memory))
    try:
        done = put_value(&out, value)
        return PyBytes_FromStringAndSize(<char*>out.data, out.size) if done else None
    finally:
        give_back(&out)
