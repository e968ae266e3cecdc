"""The scheduler's stream, decoded: the way in for all messages."""

from fastworker.wire.subframes cimport PickledHeader
from fastworker.wire.unpack cimport Unpacker


cdef class Batch(Unpacker):
    cdef list unloadable  # UnloadableTasks met in the present message

    cdef list messages(self)
    cdef object one_message(self)
    cdef object compute_task(self, Py_ssize_t n)
    cdef object free_keys(self, Py_ssize_t n)
    cdef object revive_pickled(self, object offset)
    cdef object pickled(self, Py_ssize_t at)
    cdef Py_ssize_t frame_number(self, object offset) except -1
    cdef int check_unloadable(self, object message) except -1


cpdef list decode(object frames)
