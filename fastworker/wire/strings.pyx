"""A table of strings that occur again and again.

Names of fields, addresses of workers and ids of spans are in message after message. Those of up to
SHORT bytes are looked up in a table of fixed size. It saves time and memory: a million tasks share
one span id.

Every string has one place in the table, where it replaces the string before it, so that a peer can
neither make the table grow nor make a look-up slow.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t n, const char* errors)
    bint PyUnicode_IS_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    PLACES = 1024  # a power of two

# Strong references, ASCII strings only; NULL where there is none. Guarded by the GIL, which is
# enough: between reading a place and taking a reference to its string, nothing can release the GIL
# (no allocation, no deallocation), and a place gets its new string before the old one is dropped.
cdef PyObject* table[PLACES]


cdef inline uint64_t mixed(const uint8_t* text, Py_ssize_t n) noexcept nogil:
    """A hash of all bytes, for this process alone."""
    cdef uint64_t h = <uint64_t>n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, text, 8)
        h = (h ^ word) * <uint64_t>0x9E3779B97F4A7C15
        h ^= h >> 29
        text += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, text, n)
        h = (h ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 32)


cdef object short_string(const uint8_t* text, Py_ssize_t n):
    """The str for `n` bytes of UTF-8, no more than SHORT; raises UnicodeDecodeError."""
    cdef PyObject** place = &table[mixed(text, n) & (PLACES - 1)]
    cdef PyObject* old = place[0]
    cdef object found
    if (
        old is not NULL and PyUnicode_GET_LENGTH(<object>old) == n
        and memcmp(PyUnicode_DATA(<object>old), text, n) == 0
    ):
        return <object>old
    found = PyUnicode_DecodeUTF8(<const char*>text, n, NULL)
    if PyUnicode_IS_ASCII(found):
        Py_INCREF(found)
        old = place[0]  # read again: another thread may have run during the allocation
        place[0] = <PyObject*>found
        if old is not NULL:
            Py_DECREF(<object>old)
    return found
