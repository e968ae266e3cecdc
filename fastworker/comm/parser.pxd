"""Bytes to messages: a state machine that knows no sockets."""

from libc.stdint cimport uint64_t

cdef enum State:
    HEAD  # the length of the head and the number of frames
    LENGTHS  # of the frames
    BODY  # the frames themselves
    BROKEN  # what came is no message; nothing that follows can be one


cdef struct Lengths:
    uint64_t* items
    Py_ssize_t n  # how many have arrived
    Py_ssize_t capacity


cdef class Parser:
    # Belongs to the thread of the event loop.
    # Limits; a message above one is refused as soon as its head says so.
    cdef readonly uint64_t max_frames
    cdef readonly uint64_t max_nbytes
    cdef uint64_t later_frames, later_nbytes  # the limits from the second message on
    cdef readonly bint greeted  # whether the first message is complete

    cdef State state
    cdef unsigned char head[16]
    cdef Py_ssize_t have  # bytes of the head, or of the length, that is being read
    cdef unsigned char length[8]
    cdef uint64_t head_nbytes
    cdef uint64_t count  # frames of this message
    cdef uint64_t nbytes  # of all frames of this message
    cdef Lengths lengths

    cdef Py_ssize_t index  # of the frame that is being read
    cdef Py_ssize_t in_head  # frames that are part of the head
    cdef Py_ssize_t block_end  # first frame that is not in the current block
    cdef object view  # of the current block: memory for one frame or several
    cdef unsigned char* block
    cdef Py_ssize_t block_nbytes
    cdef bint packed  # whether the frames of the block lie next to each other, without padding
    cdef Py_ssize_t offset  # in the block, of the frame that is being read
    cdef unsigned char* target  # where the next byte of the frame goes
    cdef Py_ssize_t missing  # bytes of the frame that have not arrived

    cdef list frames  # of the message that is being read
    cdef list messages  # complete ones, the next one last
    cdef list behind  # complete ones that came after those, the next one first
    cdef readonly uint64_t received  # bytes, ever

    cdef int limit(self, uint64_t max_frames, uint64_t max_nbytes) except -1
    cdef int limit_first(self, uint64_t max_frames, uint64_t max_nbytes) except -1
    cdef bint partial(self) noexcept
    cdef bint ready(self) noexcept
    cdef list take(self)
    cdef int push(self, const unsigned char* data, Py_ssize_t n) except -1
    cdef Py_ssize_t direct(self, unsigned char** where) noexcept
    cdef int advance(self, Py_ssize_t n) except -1

    cdef int start_lengths(self) except -1
    cdef int add_length(self, uint64_t nbytes) except -1
    cdef int start_body(self) except -1
    cdef int start_frame(self) except -1
    cdef int start_block(self) except -1
    cdef int end_frame(self) except -1
    cdef int end_message(self) except -1
    cdef int refuse(self, str why, type error=*) except -1
    cdef int refuse_size(self, str what) except -1
    cdef str source(self, bint of_first, str setting)
