"""Messages to bytes: a queue of pieces that the kernel reads in place, without a copy."""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t

from fastworker.comm.arena cimport Block

cdef struct Piece:
    # Bytes to be sent from where they are; the buffer keeps them there.
    Py_buffer buffer
    const char* at
    Py_ssize_t left


cdef class Outgoing:
    # A queue of pieces. Belongs to the thread of the event loop; while a system call reads from
    # the pieces without the GIL, that thread is the one in the call.
    cdef Piece* pieces
    cdef Py_ssize_t first, n, capacity  # pieces[first:n] are waiting
    cdef Py_ssize_t nbytes  # of them

    cdef int add(self, object source) except -1
    cdef int reserve(self, Py_ssize_t more) except -1
    cdef int sent(self, Py_ssize_t nbytes) except -1
    cdef int clear(self) except -1
    cdef Py_ssize_t send_some(self, int fd) except -2


cdef class Packed:
    # The frames of one message between being looked at and being sent.
    cdef Piece* frames
    cdef Py_ssize_t n
    cdef uint64_t in_head  # bytes of the frames that are part of the head
    cdef readonly Py_ssize_t nbytes  # of the message: head, lengths, frames

    cdef int place_head_end(self, list frames) except -1
    cdef Py_ssize_t write_head(self, char* where) noexcept
    cdef Py_ssize_t copy_to(self, char* where) noexcept
    cdef int move_to(self, Outgoing out) except -1


cdef Packed pack(list frames)
