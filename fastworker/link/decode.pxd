"""Decodes all messages from the scheduler."""

from fastworker.wire.subframes cimport MessageUnpacker


cdef class SchedulerDecoder(MessageUnpacker):
    cdef list unloadable  # UnloadableTasks met in the present message

    cdef list messages(self)
    cdef object one_message(self)
    cdef object compute_task(self, Py_ssize_t n)
    cdef object free_keys(self, Py_ssize_t n)
    cdef int check_unloadable(self, object message) except -1


cpdef list decode(object frames)
