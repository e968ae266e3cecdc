"""One result in memory, and the kind of key that can be looked up without a thread switch."""

cimport cython
from cpython.bool cimport PyBool_Check
from cpython.bytes cimport PyBytes_CheckExact
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.tuple cimport PyTuple_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact

cdef extern from "Python.h":
    bint PyObject_IS_GC(object o)
    void PyObject_GC_UnTrack(object o)

cdef enum:
    DEEPEST = 8  # levels of nested tuples that are checked


cdef bint plain(object key, int depth=0) noexcept:
    """Whether hashing and comparing this key runs C code only, and cannot switch threads."""
    if PyUnicode_CheckExact(key) or PyBytes_CheckExact(key) or PyLong_CheckExact(key):
        return True
    if PyTuple_CheckExact(key):
        if depth == DEEPEST:
            return False
        for part in <tuple>key:
            if not plain(part, depth + 1):
                return False
        return True
    return PyFloat_CheckExact(key) or PyBool_Check(key) or key is None


cdef Entry new_entry(object key, object value, int64_t nbytes, bint is_plain):
    cdef Entry entry = Entry.__new__(Entry)
    entry.key = key
    entry.value = value
    entry.nbytes = nbytes
    if is_plain and not PyObject_IS_GC(value):
        PyObject_GC_UnTrack(entry)  # it cannot be part of a cycle
    return entry


@cython.final
@cython.freelist(64)
cdef class Entry:
    """A result in memory."""

    def __cinit__(self):
        self.older = self.newer = <PyObject*>self

    def __dealloc__(self):
        unlink(self)
