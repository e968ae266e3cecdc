"""Recommendations: which task should go to which state next."""

from fastworker.core.task cimport TaskState

cdef struct Rec:
    void* task  # owned
    void* args  # owned tuple or NULL: what the transition needs besides the state
    int finish


cdef class Recs:
    # Used by one event at a time, which owns it.
    cdef Rec* items
    cdef Py_ssize_t n
    cdef Py_ssize_t capacity
    cdef dict index  # {task: position} while there are many; None while a look at each is quicker

    cdef int put(self, TaskState ts, int finish) except -1
    cdef int put_new(self, TaskState ts) except -1
    cdef int put_args(self, TaskState ts, int finish, tuple args) except -1
    cdef bint has(self, TaskState ts) except -1
    cdef TaskState last(self)
    cdef int last_finish(self) noexcept
    cdef tuple take_last(self)
    cdef Py_ssize_t find(self, TaskState ts) except -2
    cdef tuple take_at(self, Py_ssize_t i)
    cdef int absorb(self, Recs other) except -1
    cdef int merge(self, Recs other) except -1
    cdef int clear(self) except -1
    cdef dict named(self)

cdef Recs from_named(object recommendations)
