"""MessagePack to Python objects, with a check before every byte."""

from libc.stdint cimport uint8_t

from fastworker.wire.frames cimport Frames

cdef enum:
    MAX_DEPTH = 512  # arrays and maps in each other; senders stop at 511


cdef class Unpacker:
    # No lock: one thread uses it, for one message.
    cdef Frames frames  # keeps the bytes in their place
    cdef readonly Py_ssize_t frame  # which of them is read
    cdef const uint8_t* start
    cdef const uint8_t* pos  # start <= pos <= end
    cdef const uint8_t* end
    cdef Py_ssize_t owed  # items still to come of the arrays and maps that were begun
    cdef int depth  # of arrays and maps
    cdef bint only_names  # whether keys of maps must be str or bytes
    cdef bint repeated  # whether the strings read now are likely to occur again
    cdef Py_ssize_t message  # index in the batch for errors, -1 for none

    cdef int read_frame(self, Frames frames, Py_ssize_t i) except -1
    cdef object whole(self)
    cdef object value(self)
    cdef object string(self, Py_ssize_t n)
    cdef tuple array(self, Py_ssize_t n)
    cdef object map(self, Py_ssize_t n)
    cdef object map_rest(self, dict out, Py_ssize_t n)
    cdef bytes binary(self, Py_ssize_t n)
    cdef int enter(self, Py_ssize_t items) except -1
    cdef void leave(self) noexcept
    cdef object name(self, Py_ssize_t n)
    cdef int check_hashable(self, object key, const uint8_t* at) except -1
    cdef object extension(self, Py_ssize_t n)
    cdef object revive(self, dict marked)

    # Headers: number of items or bytes, checked against what is there
    cdef Py_ssize_t size(self, int width) except -1
    cdef Py_ssize_t array_header(self) except? -1
    cdef Py_ssize_t map_header(self) except? -1
    cdef bint consume_if(self, const char* literal, Py_ssize_t n) noexcept

    cdef int need(self, Py_ssize_t n) except -1
    cdef object error(self, str problem)


cdef bint is_marker(const uint8_t* name, Py_ssize_t n) noexcept nogil
