"""Small pickles, as tasks come in, without a detour through Python."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

cdef enum:  # limits of what is read here
    HEIGHT = 64  # objects on the stack
    MARKS = 16  # one of them is for tuples without a mark
    MEMOS = 128


cdef class Reading:
    # One pickle while it is read. Used by the thread alone that reads it, but objects of the user's
    # are made and called in the middle of it; so it owns a reference to all that it works with.
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
