"""A short way for small messages of plain builtins, which are most of what an RPC sends.

Distributed looks at the size of each message, and at each dictionary in it, for what cannot be
there in such a message: something to serialise apart, an enum, a set. These functions write and
read the same bytes, and return None where a message may need distributed's own functions.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.object cimport PyObject
from cpython.ref cimport Py_TYPE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

import msgpack

cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object)

cdef extern from "string.h" nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    """
    void* memchr(const void* where, int what, size_t size)

cdef enum:
    # What a small message may have: values, at this depth, and bytes
    VALUES = 256
    DEPTH = 8
    NBYTES = 16 << 10

cdef object packb = msgpack.packb
cdef object unpackb = msgpack.unpackb


def encode(message):
    """The one frame of a small message; None if it is not plain, or not small."""
    cdef Py_ssize_t values = VALUES, nbytes = NBYTES
    if not plain(message, &values, &nbytes, DEPTH):
        return None
    try:
        return packb(message)
    except ValueError:
        return None  # text that is no Unicode: distributed has its way of saying so


cdef bint plain(object value, Py_ssize_t* values, Py_ssize_t* nbytes, int depth) except -1:
    """Whether there is nothing in it but exact builtins, taking them off what is allowed."""
    cdef Py_ssize_t i = 0
    cdef PyObject* key
    cdef PyObject* item
    cdef int overflow = 0
    cdef PyObject* kind = <PyObject*>Py_TYPE(value)
    values[0] -= 1
    if values[0] < 0:
        return False
    if value is None or value is True or value is False or kind == <PyObject*>float:
        return True
    if kind == <PyObject*>str:
        nbytes[0] -= PyUnicode_GET_LENGTH(value)
        return nbytes[0] >= 0
    if kind == <PyObject*>bytes:
        nbytes[0] -= len(<bytes>value)
        return nbytes[0] >= 0
    if kind == <PyObject*>int:
        PyLong_AsLongLongAndOverflow(value, &overflow)
        return overflow == 0
    if depth == 0:
        return False
    if kind == <PyObject*>dict:
        while PyDict_Next(value, &i, &key, &item):
            if <PyObject*>Py_TYPE(<object>key) != <PyObject*>str:
                return False
            if not plain(<object>key, values, nbytes, depth - 1):
                return False
            if not plain(<object>item, values, nbytes, depth - 1):
                return False
        return True
    if kind == <PyObject*>list:
        while i < PyList_GET_SIZE(value):
            if not plain(<object>PyList_GET_ITEM(value, i), values, nbytes, depth - 1):
                return False
            i += 1
        return True
    if kind == <PyObject*>tuple:
        while i < PyTuple_GET_SIZE(value):
            if not plain(<object>PyTuple_GET_ITEM(value, i), values, nbytes, depth - 1):
                return False
            i += 1
        return True
    return False


def decode(frame):
    """The message of a frame, in a tuple of one; None if it is not small, or may not be plain."""
    # No typed memoryview: that would bring Cython's hundred kilobytes for them into the module
    cdef Py_buffer view
    cdef bint small
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    small = 0 < view.len <= NBYTES and not has_marker(<const unsigned char*>view.buf, view.len)
    PyBuffer_Release(&view)
    if not small:
        return None
    try:
        return (unpackb(frame, use_list=False, raw=False, strict_map_key=False),)
    except (ValueError, TypeError):  # no MessagePack, or a key that cannot be one
        return None


cdef bint has_marker(const unsigned char* at, Py_ssize_t n) noexcept nogil:
    """Whether there are two underscores, with which all of distributed's special keys begin."""
    cdef const unsigned char* end = at + n - 1
    while at < end:
        at = <const unsigned char*>memchr(at, c"_", end - at)
        if at == NULL:
            return False
        if at[1] == c"_":
            return True
        at += 1
    return False
