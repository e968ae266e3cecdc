"""Priority queues of tasks: what is ready to run, and what is to be fetched from one peer."""

from libc.stdint cimport uint8_t, uint64_t

from fastworker.core.priority cimport WIDTH
from fastworker.core.task cimport TaskState

cdef struct Entry:
    double v[WIDTH]  # the priority when it was added, see priority.pxd
    uint64_t seq  # ties: first come, first served
    int slot  # which of the task's slots says where it stands here
    uint8_t n
    uint8_t floats


cdef class ReadyQueue:
    # Guarded by the lock of the core that owns the queue.
    # items[i] and entries[i] are one heap: a 4-ary one, the least at 0. The list owns the tasks.
    cdef uint64_t id
    cdef list items
    cdef Entry* entries
    cdef Py_ssize_t capacity
    cdef uint64_t seq
    cdef list keys  # priorities as tuples, since one that is inexact came in; None before

    cdef Py_ssize_t size(self) noexcept
    cdef bint has(self, TaskState ts) noexcept
    cdef int push(self, TaskState ts) except -1
    cdef bint drop(self, TaskState ts) except -1
    cdef TaskState first(self)
    cdef TaskState take(self)
    cdef TaskState take_at(self, Py_ssize_t i)
    cdef int less(self, Py_ssize_t a, Py_ssize_t b) except -1
    cdef void swap(self, Py_ssize_t a, Py_ssize_t b) noexcept
    cdef int sift_up(self, Py_ssize_t i) except -1
    cdef int sift_down(self, Py_ssize_t i) except -1
    cdef int compare_by_tuple(self) except -1
    cdef object key_at(self, Py_ssize_t i)
    cdef list in_order(self)
