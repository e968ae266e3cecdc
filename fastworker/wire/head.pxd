"""The head of a message on TCP, as every comm of distributed's writes and reads it.

It has unsigned 64-bit numbers in the byte order of the machine: the bytes of the head behind this
number, the number of frames, the length of each frame. The first frames follow, as part of the
head; the others come behind it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef enum:
    WORD = 8  # bytes of a number


cdef inline void put_word(char* where, uint64_t number) noexcept nogil:
    memcpy(where, &number, WORD)  # `where` may be at any address


cdef inline size_t head_size(uint64_t n_frames) noexcept nogil:
    """Bytes of all numbers in the head of a message."""
    return WORD * (n_frames + 2)


cdef inline char* begin_head(char* where, uint64_t n_frames, uint64_t in_head) noexcept nogil:
    """Write what stands before the lengths; returns where these go.

    `in_head` is the bytes of the frames that are part of the head.
    """
    put_word(where, WORD * (n_frames + 1) + in_head)
    put_word(where + WORD, n_frames)
    return where + 2 * WORD
