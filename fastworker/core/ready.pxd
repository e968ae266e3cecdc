"""Priority queues of tasks: what is ready to run, and what is to be fetched from one peer."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

from fastworker.core.task cimport TaskState

cdef struct Entry:
    uint64_t hi, lo  # the priority when it was added, see priority.pxd
    uint64_t seq  # ties: first come, first served
    int32_t handle  # which task: its index in `items`
    uint8_t n  # components of the priority


cdef class ReadyQueue:
    # Guarded by the lock of the core that owns the queue.
    # The heap holds plain data. A task keeps its handle, and `where` tells where the handle is now.
    cdef uint64_t id
    cdef Entry* heap  # a 4-ary one, the least at 0
    cdef Py_ssize_t n
    cdef Py_ssize_t capacity  # of heap and where
    cdef int32_t* where  # by handle: position in the heap; of a free one: the next free handle
    cdef int32_t free_handle  # -1: none
    cdef uint64_t seq
    cdef list items  # by handle: the tasks, which the list owns; None for a free one
    cdef dict keys  # {handle: priority} since an unpacked one came in, until empty; else None

    cdef Py_ssize_t size(self) noexcept
    cdef bint has(self, TaskState ts) noexcept
    cdef int push(self, TaskState ts) except -1
    cdef bint drop(self, TaskState ts) except -1
    cdef TaskState first(self)
    cdef TaskState take(self)

    cdef TaskState task_at(self, Py_ssize_t i)
    cdef TaskState take_at(self, Py_ssize_t i)
    cdef int grow(self) except -1
    cdef int release(self, int32_t handle) except -1
    cdef void place(self, Py_ssize_t i, const Entry* entry) noexcept
    cdef int sift_up(self, Py_ssize_t i, const Entry* entry) except -1
    cdef Py_ssize_t sink_hole(self, Py_ssize_t i) noexcept
    cdef int fill_comparing_tuples(self, Py_ssize_t i) except -1
    cdef bint less(self, const Entry* a, const Entry* b) except -1
    cdef int compare_by_tuple(self) except -1
    cdef object key_of(self, const Entry* entry)
    cdef list in_order(self)
