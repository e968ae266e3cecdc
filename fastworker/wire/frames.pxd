"""The frames of one message, and direct access to their bytes."""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t


cdef struct Span:
    const uint8_t* data
    Py_ssize_t size


cdef class Frames:
    # No lock: one thread at a time uses it.
    cdef Py_ssize_t count  # frames there are
    cdef Py_ssize_t room  # capacity of `spans` and `views`, in frames
    cdef Span* spans  # where the bytes of each frame are
    cdef list objects  # each frame as given
    cdef Py_buffer* views  # of each frame: these keep the bytes in their place

    cdef int make_room(self, Py_ssize_t n) except -1
    cdef int append(self, object frame) except -1
    cdef object frame(self, Py_ssize_t i)
    cdef list section(self, Py_ssize_t start, Py_ssize_t n)


cdef Frames frames_of(object sequence)
