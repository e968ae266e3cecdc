"""Reads small pickles, in which tasks arrive, in compiled code."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

cdef enum:  # limits of what is read here
    HEIGHT = 64  # objects on the stack
    MARKS = 16  # one of them is for tuples without a mark
    MEMOS = 128


cdef class Reading:
    # One pickle while it is read. Only the thread that reads it uses it, but user code runs in
    # between; so it owns a reference to every object that it works with.
    cdef PyObject* stack[HEIGHT]
    cdef PyObject* memo[MEMOS]
    cdef Py_ssize_t[MARKS] marks  # heights of the stack
    cdef Py_ssize_t height
    cdef Py_ssize_t memos
    cdef Py_ssize_t n_marks

    cdef void push(self, object value) noexcept
    cdef object pop(self)
    cdef object top(self)
    cdef tuple pop_to_mark(self)
    cdef int build(self) except -1
    cdef int append_to(self, tuple items) except -1
    cdef int set_in(self, tuple items) except -1
    cdef object read(self, const uint8_t* p)
